// RAT: a gated recurrence inside chunks of L tokens, softmax attention across chunk ends (arXiv 2507.04416,
// section 3; formulas in kernels/rat.h).
//
// Weights: in_proj [3D + 2Gp, D] with rows z, v, g, q, k; gate_bias [D]; out_proj [D, D]. Head h uses query and
// key group h mod G. State: ends_k, ends_v [H, p] an entry per L tokens (keys rotated), running_k, running_v
// fp32 [H, p] (not rotated); the ends may be in 8 bits. Resumes exactly at multiples of L.
#pragma once
#include "rattan/nn/linear.h"
#include "rattan/nn/mixer.h"
#include "rattan/nn/mixers/rat_chunks.h"

namespace rattan::nn {

struct RatOptions : MixerOptions {
  int64_t n_heads = 16, n_groups = 2, chunk = 16;
  bool rope = true;
  double rope_base = 10000;
  void fields(Fields& f) override;
  std::unique_ptr<Mixer> make(const MixerContext& context) const override;
};

class Rat : public Mixer {
 public:
  Rat(const RatOptions& options, const MixerContext& context);
  at::Tensor forward(const at::Tensor& x, Call& call) override;
  at::Tensor extend(const at::Tensor& x, State& state, Call& call) override;
  StateSpec state_spec() const override;
  Traits traits() const override { return {.takes_steps = true, .adds_to_stream = true, .enters_by_linear = true}; }
  double flops_per_token(int64_t tokens) const override;

 private:
  // What a batch reads and leaves: ends [R, E, H, p], running [R, H, p]; undefined fields: nothing carried.
  struct Memory {
    at::Tensor ends_k, ends_v, running_k, running_v;
  };
  static Memory memory_of(const State& state);
  bool fused(const at::Tensor& proj, const Call& call) const;
  std::pair<at::Tensor, at::Tensor> tables(const RatChunks& chunks, at::Device device) const;
  // The mixing as tensor algebra around the call's attention core: z * y, and the memory after the batch.
  std::pair<at::Tensor, Memory> compose(const at::Tensor& proj, const RatChunks& chunks, const Memory& before,
                                        Call& call, bool round_ends = false) const;
  at::Tensor extend_in_8_bits(const at::Tensor& x, State& state, Call& call) const;  // z * y

  RatOptions options_;
  int64_t d_model_, dim_;
  Linear in_proj_, out_proj_;
  Param& gate_bias_;
};

}  // namespace rattan::nn
