// A nondeterministic automaton over bytes (Thompson, CACM 11(6), 1968).
#pragma once
#include <cstdint>
#include <vector>

#include "rattan/infer/grammar/pattern.h"

namespace rattan::infer {

struct NfaNode {
  uint8_t low = 1, high = 0;  // a byte of low .. high leads to `next`; none if low > high
  int32_t next = -1;
  std::vector<int32_t> free{};  // nodes that stand for this one, too
  bool useful = false;          // the end can be reached
};

struct Nfa {
  std::vector<NfaNode> nodes;
  int32_t start = 0, end = 0;
};

// The texts of `pattern` in UTF-8 that consist of characters of `writable`. InputError beyond 200,000 nodes, or if
// there is no such text.
Nfa make_nfa(const Pattern& pattern, const CodeSet& writable);

}  // namespace rattan::infer
