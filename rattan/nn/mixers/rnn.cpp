// The mixer type `rnn`: a gated linear RNN over the whole sequence, the baseline of RAT (arXiv 2507.04416):
//   [z' | v | g'] = in_proj x;  h_t = g h_{t-1} + (1-g) v, g = sigmoid(g' + gate_bias);
//   out = out_proj (sigmoid(z') * h)
// Weights: in_proj [3D, D] with rows z, v, g; gate_bias [D]; out_proj [D, D]. State: h fp32 [D].
#include <ATen/TensorOperators.h>
#include <ATen/ops/sigmoid.h>

#include "rattan/base/error.h"
#include "rattan/nn/gated_scan.h"
#include "rattan/nn/linear.h"
#include "rattan/nn/mixers/registry.h"
#include "rattan/ops/ops.h"

namespace rattan::nn {
namespace rnn_file {

struct Options : MixerOptions {
  int64_t memory = 4096;
  void fields(Fields& f) override {
    f("memory", memory, "longest memory the gates start with, in tokens (the training length)", at_least(2));
  }
  std::unique_ptr<Mixer> make(const MixerContext& context) const override;
};

class Rnn : public Mixer {
 public:
  Rnn(const Options& options, const MixerContext& context)
      : d_model_(context.d_model),
        in_proj_(d_model_, 3 * d_model_, context.init_std),
        out_proj_(d_model_, d_model_, context.init_std),
        gate_bias_(param("gate_bias", {d_model_}, Init::log_uniform(1, static_cast<double>(options.memory - 1)))) {
    child("in_proj", in_proj_);
    child("out_proj", out_proj_);
  }

  at::Tensor forward(const at::Tensor& x, Call& call) override {
    at::Tensor initial;
    if (call.carry && call.carry->t.contains("h")) initial = call.carry->t.at("h");
    auto [gated, last] = mix(x, initial, call);
    if (call.carry) call.carry->t = {{"h", last}};
    return out_proj_.join(gated, x, call);
  }

  at::Tensor extend(const at::Tensor& x, State& state, Call& call) override {
    if (state.t.empty()) fail("extend needs a state made from state_spec()");
    auto [gated, last] = mix(x, state.t.at("h"), call);
    state.t.at("h").copy_(last);
    return out_proj_.join(gated, x, call);
  }

  StateSpec state_spec() const override {
    StateSpec spec;
    spec.fields = {{.name = "h", .dtype = at::kFloat, .shape = {d_model_}}};
    spec.resume = 0;
    return spec;
  }

  Traits traits() const override { return {.takes_steps = true, .adds_to_stream = true, .enters_by_linear = true}; }
  double flops_per_token(int64_t) const override { return in_proj_.flops() + out_proj_.flops(); }

 private:
  // sigmoid(z') * h of every token, and h after the segments.
  std::pair<at::Tensor, at::Tensor> mix(const at::Tensor& x, const at::Tensor& before, const Call& call) const {
    const auto parts = in_proj_.enter(x, call).view({-1, 3 * d_model_}).split(d_model_, 1);
    auto [h, after] = gated_scan(parts[1], parts[2], gate_bias_, call.layout, before);
    const at::Tensor gated = x.scalar_type() == at::kDouble ? at::sigmoid(parts[0]) * h : ops::sigmoid_mul(parts[0], h);
    return {gated, after};
  }

  int64_t d_model_;
  Linear in_proj_, out_proj_;
  Param& gate_bias_;
};

std::unique_ptr<Mixer> Options::make(const MixerContext& context) const {
  return std::make_unique<Rnn>(*this, context);
}

}  // namespace rnn_file

extern const MixerType rnn_mixer;
const MixerType rnn_mixer = {"rnn", "gated linear RNN over the whole sequence",
                             [] { return std::unique_ptr<MixerOptions>(new rnn_file::Options); }};

}  // namespace rattan::nn
