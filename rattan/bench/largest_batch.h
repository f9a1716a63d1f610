#pragma once
#include <cstdint>
#include <functional>
#include <vector>

namespace rattan::bench {

// The largest n <= most for which fits(n); n is a multiple of `grain`, or less than it. Who fits makes all smaller ones
// fit. 0 if not even 1 fits. About log2(most / grain) questions, the first ones near `most`.
int64_t largest_batch(int64_t most, int64_t grain, const std::function<bool(int64_t)>& fits);

// The grain of batches up to `most`: a power of two, 1/64 to 1/32 of it.
int64_t batch_grain(int64_t most);

// Batches to time when `largest` fits: the most tokens a second need not come with the most sequences.
std::vector<int64_t> batches_to_try(int64_t largest);

}  // namespace rattan::bench
