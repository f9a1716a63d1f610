#include "rattan/nn/ffn.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/gelu.h>
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
    if (!call.layout.has_padding()) return down_.join(hidden(x), x, call);
    const at::Tensor y = down_(hidden(x));
    return y * call.layout.valid().view({x.size(0), x.size(1), 1}).to(y.scalar_type());
  }
  at::Tensor extend(const at::Tensor& x, State&, Call& call) override { return forward(x, call); }
  Traits traits() const override { return {.takes_steps = true, .adds_to_stream = true}; }
  double flops_per_token(int64_t) const override {
    return up_.flops() + down_.flops() + (gate_ ? gate_->flops() : 0.0);
  }

 private:
  at::Tensor hidden(const at::Tensor& x) const {
    const at::Tensor up = up_(x);
    if (x.scalar_type() == at::kDouble) return gate_ ? at::silu((*gate_)(x)) * up : at::gelu(up);
    return gate_ ? ops::swiglu((*gate_)(x), up) : ops::gelu(up);
  }

  Linear up_, down_;
  std::unique_ptr<Linear> gate_;
};

}  // namespace ffn_file

std::unique_ptr<Mixer> make_ffn(const std::string& type, int64_t hidden, const MixerContext& context) {
  return std::make_unique<ffn_file::Ffn>(type == "swiglu", hidden, context);
}

}  // namespace rattan::nn
