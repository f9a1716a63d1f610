#include "rattan/nn/ffn.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/silu.h>

#include "rattan/ops/ops.h"

namespace rattan::nn {
namespace ffn_file {

class Ffn : public Mixer {
 public:
  Ffn(bool gated, int64_t hidden, const MixerContext& context)
      : up_(context.d_model, hidden, context.init_std), down_(hidden, context.d_model, context.init_std) {
    child("up", up_);
    if (gated) {
      gate_ = std::make_unique<Linear>(context.d_model, hidden, context.init_std);
      child("gate", *gate_);
    }
    child("down", down_);
  }

  at::Tensor forward(const at::Tensor& x, Call& call) override {
    if (!call.layout.has_padding()) return down_.join(hidden(x, call), x, call);
    const at::Tensor y = down_(hidden(x, call));
    return y * call.layout.valid().view({x.size(0), x.size(1), 1}).to(y.scalar_type());
  }
  at::Tensor extend(const at::Tensor& x, State&, Call& call) override { return forward(x, call); }
  Traits traits() const override { return {.takes_steps = true, .adds_to_stream = true, .enters_by_linear = true}; }
  double flops_per_token(int64_t) const override {
    return up_.flops() + down_.flops() + (gate_ ? gate_->flops() : 0.0);
  }

 private:
  at::Tensor hidden(const at::Tensor& x, const Call& call) const {
    if (!gate_) return up_.enter(x, call, /*gelu=*/true);
    const at::Tensor up = up_.enter(x, call), gate = gate_->enter(x, call);
    return x.scalar_type() == at::kDouble ? at::silu(gate) * up : ops::swiglu(gate, up);
  }

  Linear up_, down_;
  std::unique_ptr<Linear> gate_;
};

}  // namespace ffn_file

std::unique_ptr<Mixer> make_ffn(const std::string& type, int64_t hidden, const MixerContext& context) {
  return std::make_unique<ffn_file::Ffn>(type == "swiglu", hidden, context);
}

}  // namespace rattan::nn
