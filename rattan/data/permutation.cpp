#include "rattan/data/permutation.h"

#include "rattan/base/random.h"

namespace rattan {
namespace permutation_file {

constexpr uint64_t kRounds = 6;

}  // namespace permutation_file

Permutation::Permutation(int64_t n, uint64_t seed, uint64_t stream)
    : n_(static_cast<uint64_t>(n)), seed_(seed), stream_(stream) {
  while ((uint64_t{1} << (2 * half_bits_)) < n_) ++half_bits_;
}

int64_t Permutation::operator()(int64_t index) const {
  uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  auto x = static_cast<uint64_t>(index);
  do {
    uint64_t left = x >> half_bits_, right = x & mask;
    for (uint64_t round = 0; round < permutation_file::kRounds; ++round) {
      uint32_t words[4];
      Rng::philox(seed_, stream_, (round << 32) | right, words);
      uint64_t mixed = left ^ (words[0] & mask);
      left = right;
      right = mixed;
    }
    x = (left << half_bits_) | right;
  } while (x >= n_);
  return static_cast<int64_t>(x);
}

}  // namespace rattan
