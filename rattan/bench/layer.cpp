#include "rattan/bench/layer.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/randn_like.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <memory>

#include "rattan/base/config.h"
#include "rattan/base/error.h"
#include "rattan/bench/ceilings.h"
#include "rattan/bench/torch_attention.h"
#include "rattan/nn/block.h"
#include "rattan/nn/mixers/registry.h"

namespace rattan::bench {
namespace layer_file {

// One layer of one mixer with the inputs of one mode.
class Case {
 public:
  Case(const LayerBench& config, const std::string& name, int64_t seq, int64_t batch, const std::string& mode)
      : config_(config), compute_(config.dtype), seq_(seq), batch_(batch), mode_(mode), block_(&compute_),
        torch_core_(batch) {
    nn::MixerConfig mixer;
    ConfigTree::from_text(mixer_options(name, config), "mixer " + name).read(mixer);
    if (name == "attention:torch") core_ = &torch_core_;
    block_.add("mixer", {nn::Place::pre, std::make_unique<nn::RmsNorm>(config.d_model, 1e-6),
                         mixer.make({.d_model = config.d_model}), std::make_unique<nn::AddResidual>()});
    block_.initialise(1, at::kFloat, config.device);
    block_.each_param([](const std::string&, nn::Param& p) { p.master().set_requires_grad(true); });
    const int64_t tokens = mode == "decode" ? 1 : seq;
    const auto options = at::TensorOptions().dtype(at::kFloat).device(config.device);
    x_ = at::randn({batch, tokens, config.d_model}, options) * 0.02;
    if (mode == "train") {
      d_y_ = at::randn({batch, tokens, config.d_model}, options).to(compute_);
    } else {
      state_ = nn::make_state(block_.state_spec(), batch, seq, compute_, config.device);
      if (mode == "decode") fill(state_);
    }
    std::vector<nn::Segment> segments(batch);
    for (int32_t row = 0; row < batch; ++row) {
      segments[row] = {.row = row, .begin = 0, .end = static_cast<int32_t>(tokens), .from = -1, .to = row};
      if (mode == "decode") segments[row].pos0 = static_cast<int32_t>(seq - 1), segments[row].from = row;
    }
    layout_ = std::make_unique<nn::Layout>(batch, tokens, std::move(segments), config.device);
  }

  void run() {
    nn::Call call{*layout_};
    call.core = core_;
    if (mode_ == "train") {
      call.mode = nn::Mode::train;
      nn::Stream stream{x_, {}};
      block_.forward(stream, call);
      torch::autograd::backward({stream.pending}, {d_y_});
      block_.each_param([](const std::string&, nn::Param& p) { p.master().mutable_grad() = at::Tensor(); });
    } else {
      at::NoGradGuard no_grad;
      nn::Stream stream{x_, {}};
      block_.extend(stream, state_, call);
      stream.resolve();
    }
    synchronize(config_.device);
  }

  // Training costs three forwards. Decoding attends to the whole length, twice the mean that prefill pays.
  double flops() const {
    const double prefill = block_.flops_per_token(seq_) * static_cast<double>(batch_ * seq_);
    if (mode_ == "train") return 3 * prefill;
    if (mode_ == "prefill") return prefill;
    return (2 * block_.flops_per_token(seq_) - block_.flops_per_token(1)) * static_cast<double>(batch_);
  }
  double bytes() {
    const auto size = static_cast<double>(c10::elementSize(compute_));
    return static_cast<double>(block_.parameters()) * size +
           static_cast<double>(block_.state_spec().bytes(seq_, compute_) * batch_);
  }

 private:
  static void fill(nn::State& state) {
    for (auto& [name, tensor] : state.t) tensor.normal_();
    for (auto& [name, child] : state.child) fill(child);
  }

  const LayerBench& config_;
  at::ScalarType compute_;
  int64_t seq_, batch_;
  std::string mode_;
  nn::Block block_;
  TorchAttention torch_core_;
  nn::AttentionCore* core_ = nullptr;
  at::Tensor x_, d_y_;
  nn::State state_;
  std::unique_ptr<nn::Layout> layout_;
};

int64_t number_after(const std::string& name, size_t colon) {
  const std::string digits = name.substr(colon + 1);
  require(!digits.empty() && digits.size() < 10 && digits.find_first_not_of("0123456789") == std::string::npos,
          "'{}' is not a mixer of the benchmark: after ':' stands a whole number", name);
  return std::stoll(digits);
}

void run_group(const LayerBench& config, int64_t seq, int64_t batch, const std::string& mode, LayerReport& report) {
  std::vector<std::unique_ptr<Case>> cases;
  std::vector<Candidate> candidates;
  for (const std::string& mixer : config.mixers) {
    cases.push_back(std::make_unique<Case>(config, mixer, seq, batch, mode));
    candidates.push_back({[&c = *cases.back()] { c.run(); }});
  }
  const auto times = interleave(candidates, config.budget);
  for (size_t i = 0; i < times.size(); ++i)
    report.rows.push_back({config.mixers[i], mode, seq, batch, times[i], cases[i]->flops(), cases[i]->bytes()});
}

}  // namespace layer_file

std::string mixer_options(const std::string& name, const LayerBench& config) {
  const size_t colon = name.find(':');
  const std::string type = name.substr(0, colon);
  nn::mixer_type(type);
  std::string out = fmt::format("type = '{}'\n", type);
  if (type == "rnn") return out;
  out += fmt::format("n_heads = {}\n", config.heads);
  if (type == "rat") out += fmt::format("n_groups = {}\n", config.groups);
  if (type == "swa") out += fmt::format("window = {}\n", colon == std::string::npos ? config.window : layer_file::number_after(name, colon));
  if (colon == std::string::npos || type == "swa" || name == "attention:torch") return out;
  require(type == "rat", "'{}' is not a mixer of the benchmark: only rat:L, swa:W and attention:torch take a ':'", name);
  return out + fmt::format("chunk = {}\n", layer_file::number_after(name, colon));
}

LayerReport run_layer_bench(const LayerBench& config) {
  LayerReport report{config, {}, {}};
  auto batch_of = [&](int64_t seq) { return config.tokens > 0 ? std::max<int64_t>(1, config.tokens / seq) : config.batch; };
  const int64_t most = *std::max_element(config.seq.begin(), config.seq.end());
  report.ceilings = measure_ceilings(std::min<int64_t>(batch_of(most) * most, 1 << 18), config.d_model,
                                     3 * config.d_model + 2 * config.groups * config.d_model / config.heads,
                                     config.dtype, config.device);
  for (const std::string& mode : config.modes)
    for (int64_t seq : config.seq) layer_file::run_group(config, seq, batch_of(seq), mode, report);
  return report;
}

}  // namespace rattan::bench
