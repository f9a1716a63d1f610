// The choice of the next token from its logits.
#pragma once
#include <cstdint>
#include <span>

#include "rattan/base/fields.h"
#include "rattan/base/random.h"

namespace rattan::infer {

// Applied in this order to the logits z of one position:
//   repetition penalty r (Keskar et al., arXiv 1909.05858): z_i / r if z_i > 0, else z_i r, for every token i that
//     the sequence already holds;
//   temperature T: p = softmax(z / T); T = 0 takes the most probable token (the lowest id among equals);
//   top-k: only the k most probable tokens;
//   top-p (Holtzman et al., arXiv 1904.09751): of those, the fewest whose share of their sum reaches p;
//   min-p (Nguyen et al., arXiv 2407.01082): of those, tokens at least `min_p` times as probable as the best one.
struct SamplerConfig {
  double temperature = 1.0;
  int64_t top_k = 0;
  double top_p = 1.0;
  double min_p = 0.0;
  double repetition_penalty = 1.0;
  void fields(Fields& f);
  void validate() const;  // InputError
};

struct Choice {
  int32_t id = 0;
  double logprob = 0;  // under the model itself: log softmax of the logits as they came
};

// `history`: the tokens before, oldest first. One uniform number is drawn from `rng` unless temperature is 0.
// Error if a logit is NaN or infinitely large, or if all are -inf.
Choice choose(std::span<const float> logits, std::span<const int32_t> history, const SamplerConfig& config, Rng& rng);

// The random numbers of one sequence: the number at a position depends on (seed, sample, position) alone.
inline Rng position_rng(uint64_t seed, uint64_t sample, uint64_t position) {
  Rng rng(seed, sample);
  rng.set_position(position);
  return rng;
}

}  // namespace rattan::infer
