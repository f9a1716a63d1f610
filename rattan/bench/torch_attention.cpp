#include "rattan/bench/torch_attention.h"

#include <ATen/ops/scaled_dot_product_attention.h>

namespace rattan::bench {

nn::AttnOut TorchAttention::attend(const nn::AttnIn& in, nn::Call&) {
  auto batched = [this](const at::Tensor& rows) {  // [B * T, H, p] -> [B, H, T, p]
    return rows.view({batch_, rows.size(0) / batch_, rows.size(1), rows.size(2)}).transpose(1, 2);
  };
  const at::Tensor q = batched(in.q), k = batched(in.kv.k), v = batched(in.kv.v);
  const bool grouped = q.size(1) != k.size(1), causal = q.size(2) > 1;
  const at::Tensor o = at::scaled_dot_product_attention(q, k, v, {}, 0.0, causal, in.scale, grouped);
  return {o.transpose(1, 2).flatten(0, 1), {}};
}

}  // namespace rattan::bench
