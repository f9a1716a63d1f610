#include "rattan/train/optimizer.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros_like.h>

#include <set>

#include "rattan/base/error.h"

namespace rattan::train {
namespace optimizer_file {

at::Tensor moment(FitState& state, const std::string& key, const at::Tensor& master) {
  auto place = state.optimizer.find(key);
  if (place == state.optimizer.end()) {
    require(state.step == 0, "the optimizer state holds no '{}': it belongs to another model", key);
    place = state.optimizer.emplace(key, at::zeros_like(master)).first;
  }
  at::Tensor& value = place->second;
  require(value.sizes() == master.sizes() && value.scalar_type() == master.scalar_type(),
          "the optimizer state's '{}' has another shape or type than its parameter: it belongs to another model", key);
  if (value.device() != master.device()) value = value.to(master.device());
  return value;
}

}  // namespace optimizer_file

AdamW::AdamW(nn::Module& module, const FitConfig& config, FitState& state)
    : beta1_(config.beta1), beta2_(config.beta2), eps_(config.eps) {
  using namespace optimizer_file;
  at::NoGradGuard no_grad;
  std::set<std::string> used;
  module.each_param([&](const std::string& name, nn::Param& param) {
    if (!param.trainable) return;
    for (const char* kind : {"exp_avg.", "exp_avg_sq."}) used.insert(kind + name);
    at::Tensor mean = moment(state, "exp_avg." + name, param.master());
    at::Tensor square = moment(state, "exp_avg_sq." + name, param.master());
    group(config, param).entries.push_back({&param, mean, square});
  });
  for (const auto& [key, value] : state.optimizer) {
    require(used.contains(key), "the optimizer state's '{}' belongs to no parameter of this model", key);
  }
}

AdamW::Group& AdamW::group(const FitConfig& config, const nn::Param& param) {
  bool decays = param.decay && (config.decay_on == "all" || param.shape().size() >= 2);
  double weight_decay = decays ? config.weight_decay : 0;
  for (Group& g : groups_) {
    if (g.weight_decay == weight_decay && g.lr_scale == param.lr_scale) return g;
  }
  groups_.push_back({weight_decay, param.lr_scale, {}, {}});
  groups_.back().steps = at::full({}, 0.0, param.master().options().dtype(at::kFloat).requires_grad(false));
  return groups_.back();
}

std::vector<nn::Param*> AdamW::params() const {
  std::vector<nn::Param*> out;
  for (const Group& g : groups_) {
    for (const Entry& e : g.entries) out.push_back(e.param);
  }
  return out;
}

at::Tensor AdamW::grad_norm() const {
  std::vector<at::Tensor> grads;
  for (nn::Param* param : params()) {
    if (param->master().grad().defined()) grads.push_back(param->master().grad());
  }
  return global_norm(grads);
}

void AdamW::update(int64_t step, double lr, double divisor) {
  at::NoGradGuard no_grad;
  for (Group& g : groups_) {
    std::vector<at::Tensor> masters, grads, means, squares;
    for (const Entry& e : g.entries) {
      at::Tensor& master = e.param->master();
      if (!master.grad().defined()) master.mutable_grad() = at::zeros_like(master);
      masters.push_back(master);
      grads.push_back(master.grad().contiguous());
      means.push_back(e.mean);
      squares.push_back(e.square);
    }
    g.steps.fill_(static_cast<double>(step));
    // The operator divides by grad_scale in the pass that reads the gradient anyway.
    at::Tensor scale = at::full({}, divisor, g.steps.options());
    std::vector<at::Tensor> steps(masters.size(), g.steps);
    at::_fused_adamw_(masters, grads, means, squares, {}, steps, lr * g.lr_scale, beta1_, beta2_, g.weight_decay, eps_,
                      false, false, scale);
    for (const Entry& e : g.entries) e.param->changed();
  }
}

void AdamW::clear_gradients() {
  for (nn::Param* param : params()) param->master().mutable_grad().reset();
}

}  // namespace rattan::train
