#include "rattan/kernels/token_draw.h"

#include "rattan/kernels/ref/token_draw_ref.h"
#include "rattan/ops/launch.h"
#include "rattan/ops/ops.h"

namespace rattan::ops {

void draw_into(const at::Tensor& index, const at::Tensor& logprob, const at::Tensor& logits, const at::Tensor& rules) {
  const int64_t rows = logits.size(0);
  require(logits.dim() == 2 && logits.size(1) >= 1 && logits.scalar_type() == at::kFloat && logits.stride(1) == 1,
          "draw_into takes float32 logits [N, V] with V contiguous");
  require(rules.dim() == 2 && rules.size(0) == rows && rules.size(1) == sizeof(kernels::DrawRule) / sizeof(double) &&
              rules.scalar_type() == at::kDouble && rules.is_contiguous(),
          "draw_into takes {} rules, contiguous float64 [N, 5]", rows);
  require(index.numel() == rows && index.scalar_type() == at::kLong && index.is_contiguous() &&
              logprob.numel() == rows && logprob.scalar_type() == at::kDouble && logprob.is_contiguous(),
          "draw_into writes int64 and float64 [{}]", rows);
  kernels::TokenDraw a;
  a.rows = rows, a.vocabulary = logits.size(1), a.logits = rows_ref<const float>(logits);
  a.rules = pointer<const kernels::DrawRule>(rules);
  a.index = pointer<int64_t>(index), a.logprob = pointer<double>(logprob);
  on_device(
      "draw_into", logits, [&] { kernels::ref::token_draw(a); },
      [&](void* stream) { kernels::cuda::token_draw(a, stream); });
}

}  // namespace rattan::ops
