// A pseudo-random permutation of 0 .. n-1 that is computed, not stored: a Feistel network on the smallest even
// number of bits that holds n, applied again while it leads outside (cycle walking; Black and Rogaway, 2002).
// Rounds are keyed by Philox.
#pragma once
#include <cstdint>

namespace rattan {

class Permutation {
 public:
  Permutation(int64_t n, uint64_t seed, uint64_t stream);
  int64_t operator()(int64_t index) const;  // index in [0, n)

 private:
  uint64_t n_, seed_, stream_;
  int half_bits_ = 1;
};

}  // namespace rattan
