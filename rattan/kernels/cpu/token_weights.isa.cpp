#include "rattan/kernels/token_weights.h"

#include "rattan/kernels/cpu/lanes.h"

namespace rattan::kernels::RATTAN_ISA {
namespace token_weights_file {

constexpr float infinity = __builtin_inff();

// A NaN does not count here, but makes the sum NaN.
float highest_of(const float* x, int64_t n) {
  Vec tops[4] = {splat(-infinity), splat(-infinity), splat(-infinity), splat(-infinity)};
  for_lanes_by_four(n, [&](int64_t i, auto part, int k) { tops[k] = max(load_or(x + i, -infinity, part), tops[k]); });
  return hmax(max(max(tops[0], tops[1]), max(tops[2], tops[3])));
}

// Writes exp((x_i - base) scale) to out, if not null, and adds it up.
float exponentials(const float* x, int64_t n, float base, float scale, float* out) {
  Vec sums[4] = {zero(), zero(), zero(), zero()};
  for_lanes_by_four(n, [&](int64_t i, auto part, int k) {
    const Vec e = exp((load_or(x + i, -infinity, part) - splat(base)) * splat(scale));
    if (out) store(out + i, e, part);
    sums[k] += e;
  });
  return sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

}  // namespace token_weights_file

void token_weights(const TokenWeights& a) {
  using namespace token_weights_file;
  const float highest = highest_of(a.logits, a.vocabulary);
  // Where all are -inf their exponentials are 0, though -inf - -inf is not.
  const float base = highest == -infinity ? 0.0f : highest;
  double total = 0;
  for (int64_t begin = 0; begin < a.vocabulary; begin += token_block) {
    const int64_t n = a.vocabulary - begin < token_block ? a.vocabulary - begin : token_block;
    const float* x = a.logits + begin;
    if (a.weights) {
      const float weight = exponentials(x, n, base, 1.0f / a.temperature, a.weights + begin);
      a.block_sums[begin / token_block] = weight;
      total += static_cast<double>(a.temperature == 1.0f ? weight : exponentials(x, n, base, 1.0f, nullptr));
    } else {
      total += static_cast<double>(exponentials(x, n, base, 1.0f, nullptr));
    }
  }
  *a.highest = highest;
  *a.sum = total;
}

}  // namespace rattan::kernels::RATTAN_ISA
