// Softmax attention with grouped key/value heads, whole or in a sliding window, with token RoPE or none.
//
// Weights: in_proj with rows v, q, k (widths Hkv p, D, Hkv p); out_proj [D, D]. Head h uses key/value head
// h / (H / Hkv). Keys are kept rotated by their token position. With a window w, query i sees the keys j with
// 0 <= i - j <= w, that is w + 1 of them (RAT, arXiv 2507.04416, hybrid; its code counts so).
// State: k, v [Hkv, p] an entry per token, or a ring of w + 1; either may be in 8 bits.
#pragma once
#include "rattan/nn/core.h"
#include "rattan/nn/linear.h"
#include "rattan/nn/mixer.h"

namespace rattan::nn {

struct AttentionSettings {
  int64_t n_heads = 16, n_kv_heads = 0;  // 0: n_heads
  int64_t window = -1;                   // -1: unlimited
  bool rope = true;
  double rope_base = 10000;
  // The keys shared by the types `attention` and `swa`.
  void fields(Fields& f);
  std::unique_ptr<Mixer> make(const char* type, const MixerContext& context) const;
};

class SoftmaxAttention : public Mixer {
 public:
  SoftmaxAttention(const AttentionSettings& settings, const MixerContext& context);
  at::Tensor forward(const at::Tensor& x, Call& call) override;
  at::Tensor extend(const at::Tensor& x, State& state, Call& call) override;
  StateSpec state_spec() const override;
  Traits traits() const override { return {.takes_steps = true, .adds_to_stream = true, .enters_by_linear = true}; }
  double flops_per_token(int64_t tokens) const override;

 private:
  struct Heads {
    at::Tensor q, k, v;  // [N, H or Hkv, p], rotated
  };
  Heads project(const at::Tensor& x, const Call& call) const;
  at::Tensor attend(const at::Tensor& x, const at::Tensor& q, const KvView& kv, const MaskSpec& mask, bool extending,
                    Call& call) const;

  AttentionSettings settings_;
  int64_t d_model_, dim_;
  Linear in_proj_, out_proj_;
};

}  // namespace rattan::nn
