// Sets of Unicode characters: what a class of a regular expression stands for.
#pragma once
#include <cstdint>
#include <initializer_list>
#include <string_view>
#include <utility>
#include <vector>

namespace rattan::infer {

// Code points 0 .. 0x10FFFF without the surrogates, which UTF-8 does not hold.
class CodeSet {
 public:
  using Range = std::pair<uint32_t, uint32_t>;  // first and last

  CodeSet() = default;
  CodeSet(std::initializer_list<Range> ranges) : CodeSet(std::vector<Range>(ranges)) {}
  explicit CodeSet(std::vector<Range> ranges);
  static CodeSet all();

  void add(uint32_t first, uint32_t last);
  void add(const CodeSet& other);
  CodeSet complement() const;
  CodeSet intersection(const CodeSet& other) const;
  const std::vector<Range>& ranges() const { return ranges_; }  // ascending, apart from each other

 private:
  void tidy();
  std::vector<Range> ranges_;
};

// The character that starts at text[at] in UTF-8, behind which `at` moves; -1 if there is none.
int32_t next_code(std::string_view text, std::size_t& at);

}  // namespace rattan::infer
