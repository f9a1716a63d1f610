#include "rattan/bench/largest_batch.h"

#include <algorithm>

namespace rattan::bench {

int64_t largest_batch(int64_t most, int64_t grain, const std::function<bool(int64_t)>& fits) {
  if (most < 1) return 0;
  // In grains: low fits, high does not or is too much.
  int64_t low = 0, high = most / grain + 1, step = std::max<int64_t>(1, high / 16);
  while (high - low > 1) {
    // Estimates of `most` are near the truth, so the search starts there and goes down by growing steps.
    const int64_t middle = low == 0 && high - step > 0 ? high - step : low + (high - low) / 2;
    if (fits(middle * grain)) {
      low = middle;
    } else {
      high = middle;
      step *= 2;
    }
  }
  if (low > 0) return low * grain;
  // Not one grain fits: one by one.
  int64_t few_low = 0, few_high = std::min(grain, most + 1);
  while (few_high - few_low > 1) {
    const int64_t middle = few_low + (few_high - few_low) / 2;
    (fits(middle) ? few_low : few_high) = middle;
  }
  return few_low;
}

int64_t batch_grain(int64_t most) {
  int64_t grain = 1;
  while (64 * grain < most) grain *= 2;
  return grain;
}

std::vector<int64_t> batches_to_try(int64_t largest) {
  std::vector<int64_t> out;
  for (const int64_t eighths : {8, 7, 6, 4})
    if (const int64_t n = largest * eighths / 8; n >= 1 && (out.empty() || out.back() != n)) out.push_back(n);
  return out;
}

}  // namespace rattan::bench
