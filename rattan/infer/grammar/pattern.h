// What a text must look like, as a tree; trees may share branches.
#pragma once
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "rattan/infer/grammar/code_set.h"

namespace rattan::infer {

struct PatternNode;
using Pattern = std::shared_ptr<const PatternNode>;

struct PatternNode {
  enum class Kind : int8_t {
    chars,     // one character of `set`
    sequence,  // all parts
    either,    // one of the parts
    repeat,    // part 0, `min` to `max` times, with part 1 between two where there is one
    list,      // parts 0 .. n - 2 in order, without those of `optional` at will; the last part between two
  };
  Kind kind = Kind::sequence;
  CodeSet set{};
  std::vector<Pattern> parts{};
  int64_t min = 0, max = -1;  // -1: without end
  std::vector<bool> optional{};
};

Pattern chars(CodeSet set);
Pattern literal(std::string_view text);  // InputError unless it is UTF-8
Pattern sequence(std::vector<Pattern> parts);
Pattern either(std::vector<Pattern> parts);  // of nothing: no text at all
Pattern repeat(Pattern part, int64_t min, int64_t max, Pattern between = nullptr);
Pattern list(std::vector<Pattern> parts, std::vector<bool> optional, Pattern between);

}  // namespace rattan::infer
