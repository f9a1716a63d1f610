#include "rattan/bench/layer_case.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "rattan/base/config.h"
#include "rattan/bench/device.h"
#include "rattan/bench/fill.h"
#include "rattan/nn/linear.h"
#include "rattan/nn/mixers/registry.h"
#include "rattan/ops/ops.h"

namespace rattan::bench {
namespace layer_case_file {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Decoding goes through copies of the state that together are larger than a processor's caches: in a model of many
// layers, too, no state is still in a cache when its layer's turn comes again.
constexpr int64_t uncached_bytes = 256 << 20;
constexpr int64_t random_rows = 1024;

// What a function remembers of the layer it belongs to.
struct Reference : torch::CustomClassHolder {
  explicit Reference(LayerCase* layer_in) : layer(layer_in) {}
  LayerCase* layer;
};

}  // namespace layer_case_file

std::vector<int64_t> documents_of(const LayerBench& config, int64_t seq) {
  if (config.documents.empty()) return {seq};
  std::vector<int64_t> out;
  for (int64_t left = seq; left > 0; left -= out.back())
    out.push_back(std::min(left, config.documents[out.size() % config.documents.size()]));
  return out;
}

// Where the layer before hands over: it gives its tensors away and takes their gradients.
struct LayerCase::Before : torch::autograd::Function<Before> {
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext*, const at::Tensor& /*anchor*/,
                                                LayerCase* layer) {
    return {std::move(layer->x_), std::move(layer->branch_)};
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext*,
                                                 const torch::autograd::variable_list&) {
    return {at::Tensor(), at::Tensor()};
  }
};

// Where the layer after takes over: it keeps nothing and sends gradients back.
struct LayerCase::After : torch::autograd::Function<After> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& /*x*/,
                            const at::Tensor& /*pending*/, LayerCase* layer) {
    ctx->saved_data["layer"] = at::IValue::make_capsule(c10::make_intrusive<layer_case_file::Reference>(layer));
    return at::zeros({});
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list&) {
    const auto reference = ctx->saved_data["layer"].toCapsule();
    LayerCase* layer = static_cast<layer_case_file::Reference*>(reference.get())->layer;
    return {std::move(layer->d_sum_), std::move(layer->d_branch_), at::Tensor()};
  }
};

nn::StateSpec spec_of(const nn::Block& block, const LayerBench& config, const std::string& name) {
  const nn::StateSpec spec = block.state_spec();
  return config.cache_in_8_bits && !name.starts_with("attention:torch") ? spec.in_8_bits() : spec;
}

void build_layer(nn::Block& block, const LayerBench& config, const std::string& name, uint64_t seed) {
  nn::MixerConfig mixer;
  ConfigTree::from_text(mixer_options(name, config), "mixer " + name).read(mixer);
  block.add("mixer", {nn::Place::pre, std::make_unique<nn::RmsNorm>(config.d_model, 1e-6),
                      mixer.make({.d_model = config.d_model}), std::make_unique<nn::AddResidual>()});
  block.initialize(seed, at::kFloat, config.device);
  nn::set_fp8(block, split_fp8(name).second, config.device);
}

LayerCase::LayerCase(const LayerBench& config, const std::string& name, int64_t seq, int64_t batch,
                     const std::string& mode)
    : config_(config),
      compute_(config.dtype),
      mode_(mode),
      seq_(seq),
      batch_(batch),
      tokens_(mode == "decode" ? 1 : seq),
      documents_(documents_of(config, seq)),
      block_(&compute_),
      torch_core_(batch) {
  build_layer(block_, config, name, 1);
  const auto [plain_name, fp8] = split_fp8(name);
  if (plain_name == "attention:torch") core_ = &torch_core_;
  weight_bytes_ = fp8 == ops::Fp8::off ? static_cast<int64_t>(c10::elementSize(compute_)) : 1;
  parameters_ = block_.parameters();
  anchor_ = at::zeros({1}).set_requires_grad(true);
  const int64_t rows = std::min(batch * tokens_, layer_case_file::random_rows);
  block_of_rows_ = at::randn({rows, config.d_model}, at::TensorOptions().dtype(at::kFloat).device(config.device));
  spec_ = spec_of(block_, config, name);
  if (!decoding()) return;
  const int64_t size = std::max<int64_t>(1, spec_.bytes(seq, compute_) * batch);
  const int64_t copies = std::clamp<int64_t>(layer_case_file::uncached_bytes / size, 1, 32);
  for (int64_t i = 0; i < copies; ++i) {
    states_.push_back(empty_state());
    fill_random(states_.back());
  }
}

nn::State LayerCase::empty_state() const {
  const int64_t longest = *std::max_element(documents_.begin(), documents_.end());
  return nn::make_state(spec_, batch_ * static_cast<int64_t>(documents_.size()), longest, compute_, config_.device);
}

at::Tensor LayerCase::rows(at::ScalarType dtype) const {
  const int64_t n = batch_ * tokens_, step = block_of_rows_.size(0);
  at::Tensor out = at::empty({n, config_.d_model}, block_of_rows_.options().dtype(dtype));
  for (int64_t i = 0; i < n; i += step) {
    const int64_t count = std::min(step, n - i);
    out.narrow(0, i, count).copy_(block_of_rows_.narrow(0, 0, count));
  }
  return out.view({batch_, tokens_, config_.d_model});
}

void LayerCase::prepare() {
  at::NoGradGuard no_grad;
  x_ = rows(at::kFloat);
  if (!adds_itself_) branch_ = rows(compute_);
  // What stands for a branch that was added: one element.
  if (adds_itself_ && training()) branch_ = at::zeros({1}, x_.options().dtype(compute_)).expand_as(x_);
  if (training()) d_sum_ = rows(at::kFloat), d_branch_ = rows(compute_);
  if (mode_ == "prefill") states_ = {empty_state()};
}

// Every call has a new layout, as it has in use: what is derived from it is part of the cost.
void LayerCase::run() {
  const nn::Layout layout(batch_, tokens_, segments(), config_.device);
  nn::Call call{layout};
  call.core = core_;
  training() ? train(call) : extend(call);
  synchronize(config_.device);
  if (mode_ == "prefill") states_.clear();
}

void LayerCase::train(nn::Call& call) {
  call.mode = nn::Mode::train;
  auto begin = [this] {
    auto in = Before::apply(anchor_, this);
    return adds_itself_ ? nn::Stream{in[0], {}, in[1], true} : nn::Stream{in[0], in[1], {}, true};
  };
  nn::Stream stream = begin();
  block_.forward(stream, call);
  adds_itself_ = stream.added.defined();
  const at::Tensor end = After::apply(stream.x, adds_itself_ ? stream.added : stream.pending, this);
  stream = {};
  torch::autograd::backward({end}, {at::ones({})});
  block_.each_param([](const std::string&, nn::Param& p) { p.master().mutable_grad() = at::Tensor(); });
}

void LayerCase::extend(nn::Call& call) {
  at::NoGradGuard no_grad;
  ops::FewRowsScope few_rows;  // as the generation engine runs its models
  nn::Stream stream{std::move(x_), std::move(branch_), {}, true};
  block_.extend(stream, states_[next_state_++ % states_.size()], call);
  adds_itself_ = !stream.pending.defined();
}

// Training costs three forwards. Decoding attends to the whole length, twice the mean that prefill pays.
double LayerCase::flops() const {
  if (decoding()) return (2 * block_.flops_per_token(seq_) - block_.flops_per_token(1)) * static_cast<double>(batch_);
  double prefill = 0;
  for (int64_t length : documents_) prefill += block_.flops_per_token(length) * static_cast<double>(batch_ * length);
  return training() ? 3 * prefill : prefill;
}

double LayerCase::bytes() const {
  int64_t total = parameters_ * weight_bytes_;
  for (int64_t length : documents_) total += spec_.bytes(length, compute_) * batch_;
  return static_cast<double>(total);
}

std::vector<nn::Segment> LayerCase::segments() const {
  std::vector<nn::Segment> out;
  for (int32_t row = 0; row < batch_; ++row) {
    int32_t begin = 0;
    for (int64_t length : documents_) {
      const auto doc = static_cast<int32_t>(out.size());
      const auto end = decoding() ? 1 : begin + static_cast<int32_t>(length);
      out.push_back({.row = row,
                     .begin = begin,
                     .end = end,
                     .pos0 = decoding() ? static_cast<int32_t>(seq_ - 1) : 0,
                     .doc = doc,
                     .from = decoding() ? doc : -1,
                     .to = training() ? -1 : doc});
      begin = end;
    }
  }
  return out;
}

}  // namespace rattan::bench
