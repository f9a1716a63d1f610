// Counter-based random numbers (Philox 4x32-10, Salmon et al., SC 2011): the value at a place depends on
// (seed, stream, index) alone, so it is the same on every device and for every number of threads.
#pragma once
#include <cstddef>
#include <cstdint>
#include <utility>

namespace rattan {

class Rng {
 public:
  explicit Rng(uint64_t seed, uint64_t stream = 0) : seed_(seed), stream_(stream) {}

  uint64_t next_u64();         // uniform over 64 bits
  double uniform();            // uniform in [0, 1), 53 bits
  double normal();             // standard normal (Box-Muller, two draws a pair)
  uint64_t below(uint64_t n);  // uniform in [0, n), unbiased; n > 0
  template <class Vector>
  void shuffle(Vector& v) {  // Fisher-Yates
    for (std::size_t i = v.size(); i > 1; --i) std::swap(v[i - 1], v[below(i)]);
  }

  // The whole state: an Rng made again with the same seed and stream and set to `position` continues equally.
  uint64_t seed() const { return seed_; }
  uint64_t stream() const { return stream_; }
  uint64_t position() const { return counter_; }
  void set_position(uint64_t position) { counter_ = position; }

  // The four 32-bit words at one counter, without advancing.
  static void philox(uint64_t seed, uint64_t stream, uint64_t counter, uint32_t out[4]);

 private:
  uint64_t seed_, stream_, counter_ = 0;
};

}  // namespace rattan
