// One row of logits z, made ready for the choice of a token:
//
//   highest = max_j z_j;   sum = sum_j exp(z_j - highest);   weight_j = exp((z_j - highest) / T)
// and the sums of the weights by blocks of `token_block` tokens, so that a draw need not add up all of them.
// In fp32; each weight within 2 ulp, `sum` added up in double over the blocks. A NaN or an infinitely large logit makes
// `sum` NaN; where all are -inf, `highest` is -inf and every weight 0.
#pragma once
#include <cstdint>

namespace rattan::kernels {

inline constexpr int64_t token_block = 256;

struct TokenWeights {
  const float* logits = nullptr;  // [vocabulary]
  int64_t vocabulary = 0;
  float temperature = 1;        // above 0
  float* weights = nullptr;     // [vocabulary], optional
  float* block_sums = nullptr;  // [ceil(vocabulary / token_block)], with `weights`
  float* highest = nullptr;     // [1]
  double* sum = nullptr;        // [1]
};

void token_weights(const TokenWeights& a);

}  // namespace rattan::kernels
