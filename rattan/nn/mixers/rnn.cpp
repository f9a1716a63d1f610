// The mixer type `rnn`: a gated linear RNN over the whole sequence, the baseline of RAT (arXiv 2507.04416):
//   [z' | v | g'] = in_proj x;  h_t = g h_{t-1} + (1-g) v, g = sigmoid(g' + gate_bias);  out = out_proj (sigmoid(z') * h)
// Weights: in_proj [3D, D] with rows z, v, g; gate_bias [D]; out_proj [D, D]. State: h fp32 [D].
#include <ATen/TensorOperators.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/zeros.h>

#include "rattan/base/error.h"
#include "rattan/nn/linear.h"
#include "rattan/nn/mixers/registry.h"
#include "rattan/nn/scan_reference.h"
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
    auto [y, last] = mix(x, initial, call);
    if (call.carry) call.carry->t = {{"h", last}};
    return y;
  }

  at::Tensor extend(const at::Tensor& x, State& state, Call& call) override {
    if (state.t.empty()) fail("extend needs a state made from state_spec()");
    auto [y, last] = mix(x, state.t.at("h"), call);
    state.t.at("h").copy_(last);
    return y;
  }

  StateSpec state_spec() const override {
    StateSpec spec;
    spec.fields = {{.name = "h", .dtype = at::kFloat, .shape = {d_model_}}};
    spec.resume = 0;
    return spec;
  }

  double flops_per_token(int64_t) const override { return in_proj_.flops() + out_proj_.flops(); }

 private:
  std::pair<at::Tensor, at::Tensor> mix(const at::Tensor& x, const at::Tensor& carried, const Call& call) const {
    const auto parts = in_proj_(x).view({-1, 3 * d_model_}).split(d_model_, 1);
    const int64_t rows =
        std::max<int64_t>({1, call.layout.state_rows(), carried.defined() ? carried.size(0) : int64_t{0}});
    // Segments may name state rows before there is a state.
    const bool named = !carried.defined() && call.layout.state_rows() > 0;
    const auto wide = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    const at::Tensor initial = named ? at::zeros({rows, d_model_}, x.options().dtype(wide)) : carried;
    if (x.scalar_type() == at::kDouble) {
      auto [h, last] = reference(parts[1], parts[2], initial, rows, call.layout);
      return {out_proj_(at::sigmoid(parts[0]) * h).view_as(x), last};
    }
    auto [h, last] =
        ops::gated_scan(parts[1], parts[2], gate_bias_(at::kFloat), call.layout.scan_table(), initial, rows);
    return {out_proj_(ops::sigmoid_mul(parts[0], h)).view_as(x), last};
  }

  std::pair<at::Tensor, at::Tensor> reference(const at::Tensor& v, const at::Tensor& gate, const at::Tensor& initial,
                                              int64_t rows, const Layout& layout) const {
    std::vector<ScanRun> runs;
    std::vector<int32_t> to, from_run;
    for (const Segment& s : layout.segments()) {
      if (s.to >= 0) to.push_back(s.to), from_run.push_back(static_cast<int32_t>(runs.size()));
      const auto first = static_cast<int32_t>(layout.first_token(s));
      runs.push_back({first, first + s.length(), initial.defined() ? s.from : -1});
    }
    const ScanResult r = scan_reference(v, at::sigmoid(gate + gate_bias_(at::kDouble)), runs, initial);
    const at::Tensor base = initial.defined() ? initial : at::zeros({rows, d_model_}, v.options());
    auto index = [&](const std::vector<int32_t>& values) {
      return int_table(values, 1, layout.device()).view({-1}).to(at::kLong);
    };
    return {r.h, base.index_copy(0, index(to), r.last.index_select(0, index(from_run)))};
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
