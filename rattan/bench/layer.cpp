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
#include "rattan/bench/products.h"
#include "rattan/bench/torch_attention.h"
#include "rattan/nn/block.h"
#include "rattan/nn/mixers/registry.h"
#include "rattan/ops/ops.h"

namespace rattan::bench {
namespace layer_file {

// Decoding goes through copies of the state that together are larger than a processor's caches: in a model of many
// layers, too, no state is still in a cache when its layer's turn comes again.
constexpr int64_t uncached_bytes = 256 << 20;

// One layer of one mixer with the inputs of one mode.
class Case : public Subject {
 public:
  Case(const LayerBench& config, const std::string& name, int64_t seq, int64_t batch, const std::string& mode)
      : config_(config),
        compute_(config.dtype),
        seq_(seq),
        batch_(batch),
        mode_(mode),
        block_(&compute_),
        torch_core_(batch) {
    nn::MixerConfig mixer;
    ConfigTree::from_text(mixer_options(name, config), "mixer " + name).read(mixer);
    if (name == "attention:torch") core_ = &torch_core_;
    block_.add("mixer", {nn::Place::pre, std::make_unique<nn::RmsNorm>(config.d_model, 1e-6),
                         mixer.make({.d_model = config.d_model}), std::make_unique<nn::AddResidual>()});
    block_.initialize(1, at::kFloat, config.device);
    block_.each_param([](const std::string&, nn::Param& p) { p.master().set_requires_grad(true); });
    parameters_ = block_.parameters();
    tokens_ = mode == "decode" ? 1 : seq;
    const auto options = at::TensorOptions().dtype(at::kFloat).device(config.device);
    x_ = at::randn({batch, tokens_, config.d_model}, options) * 0.02;
    if (mode == "train") {
      d_y_ = at::randn({batch, tokens_, config.d_model}, options).to(compute_);
    } else {
      const int64_t size = std::max<int64_t>(1, block_.state_spec().bytes(seq, compute_) * batch);
      const int64_t copies = mode == "decode" ? std::clamp<int64_t>(uncached_bytes / size, 1, 32) : 1;
      for (int64_t i = 0; i < copies; ++i)
        states_.push_back(nn::make_state(block_.state_spec(), batch, seq, compute_, config.device));
      if (mode == "decode")
        for (nn::State& state : states_) fill(state);
    }
  }

  // Every call has a new layout, as it has in use: what is derived from it is part of the cost.
  void run() override {
    const nn::Layout layout(batch_, tokens_, segments(), config_.device);
    nn::Call call{layout};
    call.core = core_;
    if (mode_ == "train") {
      call.mode = nn::Mode::train;
      nn::Stream stream{x_, {}};
      block_.forward(stream, call);
      torch::autograd::backward({stream.pending}, {d_y_});
      block_.each_param([](const std::string&, nn::Param& p) { p.master().mutable_grad() = at::Tensor(); });
    } else {
      at::NoGradGuard no_grad;
      ops::FewRowsScope few_rows;  // as the generation engine runs its models
      nn::Stream stream{x_, {}};
      block_.extend(stream, states_[next_state_++ % states_.size()], call);
      stream.resolve();
    }
    synchronize(config_.device);
  }

  // Training costs three forwards. Decoding attends to the whole length, twice the mean that prefill pays.
  double flops() const override {
    const double prefill = block_.flops_per_token(seq_) * static_cast<double>(batch_ * seq_);
    if (mode_ == "train") return 3 * prefill;
    if (mode_ == "prefill") return prefill;
    return (2 * block_.flops_per_token(seq_) - block_.flops_per_token(1)) * static_cast<double>(batch_);
  }
  double bytes() const override {
    return static_cast<double>(parameters_ * static_cast<int64_t>(c10::elementSize(compute_)) +
                               block_.state_spec().bytes(seq_, compute_) * batch_);
  }

 private:
  std::vector<nn::Segment> segments() const {
    const bool decode = mode_ == "decode", stateful = mode_ != "train";
    std::vector<nn::Segment> out(batch_);
    for (int32_t row = 0; row < batch_; ++row)
      out[row] = {.row = row,
                  .begin = 0,
                  .end = static_cast<int32_t>(tokens_),
                  .pos0 = decode ? static_cast<int32_t>(seq_ - 1) : 0,
                  .doc = row,
                  .from = decode ? row : -1,
                  .to = stateful ? row : -1};
    return out;
  }
  static void fill(nn::State& state) {
    for (auto& [name, tensor] : state.t) tensor.normal_();
    for (auto& [name, child] : state.child) fill(child);
  }

  const LayerBench& config_;
  at::ScalarType compute_;
  int64_t seq_, batch_, tokens_ = 0, parameters_ = 0;
  std::string mode_;
  nn::Block block_;
  TorchAttention torch_core_;
  nn::AttentionCore* core_ = nullptr;
  at::Tensor x_, d_y_;
  std::vector<nn::State> states_;
  size_t next_state_ = 0;
};

// Columns of RAT's input projection.
int64_t projection_width(const LayerBench& c) { return 3 * c.d_model + 2 * c.groups * (c.d_model / c.heads); }

std::unique_ptr<Subject> make_subject(const LayerBench& config, const std::string& name, int64_t seq, int64_t batch,
                                      const std::string& mode) {
  if (name != "products") return std::make_unique<Case>(config, name, seq, batch, mode);
  return std::make_unique<Products>(batch * (mode == "decode" ? 1 : seq), config.d_model, projection_width(config),
                                    mode == "train", config.dtype, config.device);
}

void check(const LayerBench& c) {
  require(!c.mixers.empty() && !c.seq.empty() && !c.modes.empty(),
          "a benchmark needs at least one mixer, one sequence length and one mode");
  require(c.d_model >= 1 && c.heads >= 1 && c.d_model % c.heads == 0, "d_model {} is not a multiple of {} heads",
          c.d_model, c.heads);
  require(c.groups >= 1 && c.heads % c.groups == 0, "{} heads cannot share {} groups evenly", c.heads, c.groups);
  require(c.batch >= 1 && c.tokens >= 0, "the batch must be at least 1 and tokens at least 0, got {} and {}", c.batch,
          c.tokens);
  for (const std::string& mode : c.modes)
    require(mode == "train" || mode == "prefill" || mode == "decode",
            "'{}' is not a mode of the benchmark: train, prefill and decode are", mode);
  for (int64_t seq : c.seq)
    require(seq >= 1 && seq < (int64_t{1} << 31), "a sequence has at least one token and fewer than 2^31, got {}", seq);
  for (const std::string& name : c.mixers)
    if (name != "products") mixer_options(name, c);
}

int64_t number_after(const std::string& name, size_t colon) {
  const std::string digits = name.substr(colon + 1);
  require(!digits.empty() && digits.size() < 10 && digits.find_first_not_of("0123456789") == std::string::npos,
          "'{}' is not a mixer of the benchmark: after ':' stands a whole number", name);
  return std::stoll(digits);
}

void run_group(const LayerBench& config, int64_t seq, int64_t batch, const std::string& mode, LayerReport& report) {
  std::vector<std::unique_ptr<Subject>> cases;
  std::vector<Candidate> candidates;
  for (const std::string& mixer : config.mixers) {
    cases.push_back(make_subject(config, mixer, seq, batch, mode));
    candidates.push_back({[&c = *cases.back()] { c.run(); }});
  }
  const auto times = interleave(candidates, config.budget);
  for (size_t i = 0; i < times.size(); ++i)
    report.rows.push_back({config.mixers[i], mode, seq, batch, times[i], cases[i]->flops(), cases[i]->bytes()});
}

}  // namespace layer_file

std::string mixer_options(const std::string& name, const LayerBench& config) {
  const size_t colon = name.find(':');
  const bool with_number = colon != std::string::npos && name != "attention:torch";
  const std::string type = name.substr(0, colon);
  nn::mixer_type(type);
  require(!with_number || type == "rat" || type == "swa",
          "'{}' is not a mixer of the benchmark: only rat:L, swa:W and attention:torch take a ':'", name);
  std::string out = fmt::format("type = '{}'\n", type);
  if (type != "rnn") out += fmt::format("n_heads = {}\n", config.heads);
  if (type == "rat") out += fmt::format("n_groups = {}\n", config.groups);
  if (type == "rat" && with_number) out += fmt::format("chunk = {}\n", layer_file::number_after(name, colon));
  if (type == "swa")
    out += fmt::format("window = {}\n", with_number ? layer_file::number_after(name, colon) : config.window);
  return out;
}

LayerReport run_layer_bench(const LayerBench& config) {
  layer_file::check(config);
  LayerReport report{config, {}, {}};
  auto batch_of = [&](int64_t seq) {
    return config.tokens > 0 ? std::max<int64_t>(1, config.tokens / seq) : config.batch;
  };
  const int64_t most = *std::max_element(config.seq.begin(), config.seq.end());
  report.ceilings = measure_ceilings(batch_of(most) * most, config.d_model, layer_file::projection_width(config),
                                     config.dtype, config.device);
  for (const std::string& mode : config.modes)
    for (int64_t seq : config.seq) layer_file::run_group(config, seq, batch_of(seq), mode, report);
  return report;
}

}  // namespace rattan::bench
