// The mixer type `ema`: an exponential moving average with a learned decay per channel,
//   h_t = a h_{t-1} + (1 - a) in_proj x_t, a = sigmoid(decay);  y = out_proj h.
// Weights: in_proj, out_proj [D, D]; decay [D]. State: h fp32 [D].
#include <ATen/ops/zeros_like.h>

#include "rattan/base/error.h"
#include "rattan/nn/gated_scan.h"
#include "rattan/nn/linear.h"
#include "rattan/nn/mixers/registry.h"

namespace rattan::nn {
namespace ema_file {

struct Options : MixerOptions {
  int64_t memory = 256;
  void fields(Fields& f) override {
    f("memory", memory, "longest memory the averages start with, in tokens", at_least(2));
  }
  std::unique_ptr<Mixer> make(const MixerContext& context) const override;
};

class Ema : public Mixer {
 public:
  Ema(const Options& options, const MixerContext& context)
      : d_model_(context.d_model),
        in_proj_(d_model_, d_model_, context.init_std),
        out_proj_(d_model_, d_model_, context.init_std),
        decay_(param("decay", {d_model_}, Init::log_uniform(1, static_cast<double>(options.memory - 1)))) {
    child("in_proj", in_proj_);
    child("out_proj", out_proj_);
    decay_.decay = false;  // weight decay would shorten every memory
  }

  at::Tensor forward(const at::Tensor& x, Call& call) override {
    at::Tensor before;
    if (call.carry && call.carry->t.contains("h")) before = call.carry->t.at("h");
    auto [y, after] = mix(x, before, call);
    if (call.carry) call.carry->t = {{"h", after}};
    return y;
  }

  at::Tensor extend(const at::Tensor& x, State& state, Call& call) override {
    if (state.t.empty()) fail("extend needs a state made from state_spec()");
    auto [y, after] = mix(x, state.t.at("h"), call);
    state.t.at("h").copy_(after);
    return y;
  }

  StateSpec state_spec() const override {
    StateSpec spec;
    spec.fields = {{.name = "h", .dtype = at::kFloat, .shape = {d_model_}}};
    spec.resume = 0;  // an average cannot be taken back to a shorter prefix
    return spec;
  }

  double flops_per_token(int64_t) const override { return in_proj_.flops() + out_proj_.flops(); }

 private:
  std::pair<at::Tensor, at::Tensor> mix(const at::Tensor& x, const at::Tensor& before, const Call& call) const {
    const at::Tensor v = in_proj_(x).view({-1, d_model_});
    auto [h, after] = gated_scan(v, at::zeros_like(v), decay_, call.layout, before);
    return {out_proj_(h).view_as(x), after};
  }

  int64_t d_model_;
  Linear in_proj_, out_proj_;
  Param& decay_;
};

std::unique_ptr<Mixer> Options::make(const MixerContext& context) const {
  return std::make_unique<Ema>(*this, context);
}

}  // namespace ema_file

extern const MixerType ema_mixer;
const MixerType ema_mixer = {"ema", "exponential moving average with a learned decay per channel",
                             [] { return std::unique_ptr<MixerOptions>(new ema_file::Options); }};

}  // namespace rattan::nn
