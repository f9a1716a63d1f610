// The choice of the next token from its logits.
#pragma once
#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "rattan/base/fields.h"
#include "rattan/base/random.h"

namespace rattan::infer {

// Applied in this order to the logits z of one position:
//   bias: z_i + b_i;
//   repetition penalty r (Keskar et al., arXiv 1909.05858): z_i / r if z_i > 0, else z_i r, for every token i that
//     the sequence already holds;
//   presence penalty a and frequency penalty b: z_i - a - b n_i for every token i that was made n_i > 0 times;
//   a mask of the tokens that may come;
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
  double presence_penalty = 0.0, frequency_penalty = 0.0;
  // The logits are taken as they come: a kernel can choose (kernels/token_draw.h).
  bool draws_plainly() const { return repetition_penalty == 1 && presence_penalty == 0 && frequency_penalty == 0; }
  // The token is the most probable one of the logits as they come.
  bool takes_best() const { return temperature == 0 && draws_plainly(); }
  void fields(Fields& f);
  void validate() const;  // InputError
};

struct Choice {
  int32_t id = 0;
  double logprob = 0;  // under the model itself: log softmax of the logits as they came
};

// What bears on a choice beside the logits.
struct Past {
  std::span<const int32_t> tokens{};               // of the sequence, oldest first
  std::size_t prompt = 0;                          // leading ones that were given, not made
  const std::map<int32_t, float>* bias = nullptr;  // added to logits
  const std::vector<uint64_t>* allowed = nullptr;  // bit id % 64 of word id / 64: this token may come
};

// One uniform number is drawn from `rng` unless temperature is 0.
// Error if a logit is NaN or infinitely large, or if no token is possible.
Choice choose(std::span<const float> logits, const Past& past, const SamplerConfig& config, Rng& rng);

// The n most probable tokens under the model itself, the lowest id first among equals.
std::vector<Choice> most_probable(std::span<const float> logits, int64_t n);
// The logarithm of each named token's probability under the model itself.
std::vector<Choice> probabilities(std::span<const float> logits, std::span<const int32_t> ids);

// The random numbers of one sequence: the number at a position depends on (seed, sample, position) alone.
inline Rng position_rng(uint64_t seed, uint64_t sample, uint64_t position) {
  Rng rng(seed, sample);
  rng.set_position(position);
  return rng;
}

}  // namespace rattan::infer
