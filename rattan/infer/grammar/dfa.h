// A deterministic automaton over bytes, by subsets of the other's nodes.
#pragma once
#include <array>
#include <cstdint>
#include <vector>

#include "rattan/infer/grammar/nfa.h"

namespace rattan::infer {

class Dfa {
 public:
  static constexpr int32_t kMaxStates = 30'000;

  // InputError if it takes more states than that, or much more work than such patterns do.
  explicit Dfa(const Nfa& nfa);

  int32_t start() const { return 0; }
  // -1: no text goes on so. From every other state some text leads to an end.
  int32_t next(int32_t state, uint8_t byte) const {
    return to_[static_cast<std::size_t>(state) * classes_ + class_of_[byte]];
  }
  bool ends(int32_t state) const { return ends_[static_cast<std::size_t>(state)]; }
  int32_t size() const { return static_cast<int32_t>(ends_.size()); }

 private:
  std::array<uint8_t, 256> class_of_{};  // bytes that no node tells apart share a column
  std::size_t classes_ = 1;
  std::vector<int32_t> to_;
  std::vector<bool> ends_;
};

}  // namespace rattan::infer
