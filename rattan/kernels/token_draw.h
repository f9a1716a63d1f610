// The choice of a token of each row of logits z, by the row's own rule and one uniform number u in [0, 1):
//
//   w_i = exp((z_i - max_j z_j) / T), counted in units of 2^-40, so that sums of w do not depend on their order;
//   top-k: only the k tokens first in the order (larger z, then lower id) are kept; 0: all;
//   top-p: of those, the first ones whose share of their sum reaches p, one at least;
//   min-p: of those, tokens of w_i >= min_p;
//   the token drawn is the first, by id, up to which the kept w sum up to more than u times the sum of all kept.
// T = 0 takes the largest logit, the lowest id among equals.
// logprob = log softmax(z) of the token, within 1e-6: of the logits themselves, whatever the rule.
//
//   z [rows, vocabulary] fp32, vocabulary >= 1; -inf: cannot be chosen. A row with a NaN or +inf, or with nothing but
//   -inf, has no choice: its index is 0 and its logprob NaN.
// A row's token depends on that row alone. The rules are those of infer/sampler.h, whose sums are rounded otherwise:
// where u falls within rounding of a border between two tokens the two may choose different ones.
#pragma once
#include "rattan/kernels/tensor_ref.h"

namespace rattan::kernels {

struct DrawRule {
  double uniform = 0, temperature = 0, top_k = 0, top_p = 1, min_p = 0;
  bool operator==(const DrawRule&) const = default;
};

struct TokenDraw {
  int64_t rows = 0, vocabulary = 0;
  RowsRef<const float> logits;
  const DrawRule* rules = nullptr;  // [rows]
  int64_t* index = nullptr;         // [rows]
  double* logprob = nullptr;        // [rows]
};

inline constexpr float draw_unit = 0x1p40F;  // 1 / the unit of w

namespace cuda {
// Device pointers.
void token_draw(const TokenDraw& a, void* stream);
}  // namespace cuda

}  // namespace rattan::kernels
