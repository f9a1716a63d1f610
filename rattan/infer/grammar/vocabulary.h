// A vocabulary's pieces as a tree of bytes, for walking an automaton with all tokens at once.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "rattan/data/tokenizer.h"
#include "rattan/infer/grammar/code_set.h"

namespace rattan::infer {

class Vocabulary {
 public:
  // Copies what it needs. InputError without an end token: then no text could end.
  explicit Vocabulary(const Tokenizer& tokenizer);

  struct Step {  // in depth-first order
    uint8_t byte = 0;
    uint16_t depth = 0;           // bytes before this one
    int32_t behind = 0;           // the first step that does not start with this one's bytes
    int32_t first = 0, last = 0;  // the tokens that end here: ids()[first, last)
  };
  const std::vector<Step>& steps() const { return steps_; }
  const std::vector<int32_t>& ids() const { return ids_; }
  const std::string& piece(int32_t id) const { return pieces_[static_cast<std::size_t>(id)]; }
  int64_t size() const { return static_cast<int64_t>(pieces_.size()); }
  int32_t end() const { return end_; }
  std::size_t longest() const { return longest_; }

  // Every text of these characters can be written, whatever piece it starts with. All of Unicode where each byte is a
  // token; else the characters that are tokens, and then only pieces of whole characters stand in the tree.
  const CodeSet& writable() const { return writable_; }

 private:
  std::vector<std::string> pieces_;
  std::vector<Step> steps_;
  std::vector<int32_t> ids_;
  int32_t end_;
  std::size_t longest_ = 0;
  CodeSet writable_;
};

}  // namespace rattan::infer
