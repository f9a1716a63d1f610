#include "rattan/bench/layer_steps.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>

#include <algorithm>

#include "rattan/base/parallel.h"
#include "rattan/bench/device.h"
#include "rattan/bench/fill.h"
#include "rattan/bench/layer_case.h"
#include "rattan/ops/ops.h"

namespace rattan::bench {
namespace layer_steps_file {

constexpr int64_t enough_bytes = int64_t{1} << 30, most_layers = 24;

}  // namespace layer_steps_file

bool LayerSteps::serves(const LayerBench& config, const std::string& name) {
  return config.device.is_cuda() && config.dtype != at::kDouble && !name.starts_with("attention:torch");
}

LayerSteps::LayerSteps(const LayerBench& config, const std::string& name, int64_t seq, int64_t batch)
    : config_(config), compute_(config.dtype), seq_(seq), batch_(batch), graph_(config.device, true) {
  using namespace layer_steps_file;
  const auto fp32 = at::TensorOptions().dtype(at::kFloat).device(config.device);
  x_ = at::randn({1, batch, config.d_model}, fp32);
  branch_ = at::randn({1, batch, config.d_model}, fp32).to(compute_);
  rows_ = at::arange(batch, fp32.dtype(at::kInt));
  positions_ = at::full({batch}, seq - 1, fp32.dtype(at::kInt));
  int64_t wanted = 1;
  while (static_cast<int64_t>(layers_.size()) < wanted) {
    auto block = std::make_unique<nn::Block>(&compute_);
    build_layer(*block, config, name, layers_.size() + 1);
    nn::State state = nn::make_state(spec_of(*block, config, name), batch, seq, compute_, config.device);
    fill_random(state);
    layers_.push_back({std::move(block), std::move(state)});
    const bool fp8 = split_fp8(name).second != ops::Fp8::off;
    state_bytes_ = static_cast<double>(spec_of(*layers_.front().block, config, name).bytes(seq, compute_) * batch);
    weight_bytes_ = static_cast<double>(layers_.front().block->parameters()) *
                    (fp8 ? 1 : static_cast<double>(c10::elementSize(compute_)));
    wanted = std::clamp<int64_t>(ceil_div(enough_bytes, std::max<int64_t>(1, static_cast<int64_t>(bytes()))), 1,
                                 most_layers);
  }
  passes_ = ceil_div(most_layers, wanted);
  for (int i = 0; i < 2; ++i) graph_.run([this] { compute(); });  // as it is, then recorded
  synchronize(config.device);
}

void LayerSteps::run() {
  for (int64_t i = 0; i < passes_; ++i) graph_.run([this] { compute(); });
  synchronize(config_.device);
}

void LayerSteps::compute() {
  at::NoGradGuard no_grad;
  ops::FewRowsScope few_rows;  // as the generation engine runs its models
  const nn::Layout layout =
      nn::Layout::step({.rows = rows_, .positions = positions_, .state_rows = batch_, .limit = seq_});
  nn::Call call{layout};
  nn::Stream stream{x_, adds_itself_ ? at::Tensor() : branch_, {}, true};
  for (Layer& layer : layers_) layer.block->extend(stream, layer.state, call);
  adds_itself_ = !stream.pending.defined();
}

// A token attends to the whole length, twice the mean that prefill pays.
double LayerSteps::flops() const {
  const nn::Block& block = *layers_.front().block;
  return (2 * block.flops_per_token(seq_) - block.flops_per_token(1)) * static_cast<double>(batch_);
}

double LayerSteps::bytes() const { return weight_bytes_ + state_bytes_; }

}  // namespace rattan::bench
