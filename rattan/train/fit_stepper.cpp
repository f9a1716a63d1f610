#include "rattan/train/fit_stepper.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/stack.h>

#include <cmath>
#include <utility>

#include "rattan/base/error.h"

namespace rattan::train {
namespace fit_stepper_file {

constexpr uint64_t kStream = 0x666974;  // keeps dropout apart from what else is drawn from the seed
constexpr const char* kAdvice = "Lower train.lr, lengthen train.warmup, lower train.clip, or use train.precision=fp32.";

[[noreturn]] void not_finite(int64_t step, const std::string& what, double value) {
  throw NotFinite(step, fmt::format("step {}: {} is {}; the step was not made. {}", step, what, value, kAdvice));
}

double mean(const std::string& name, int64_t step, double sum, double n) {
  if (!(n > 0)) {
    fail("step {}: {} counts {} units, so its mean does not exist. Check that the data holds targets.", step, name, n);
  }
  if (!std::isfinite(sum / n)) not_finite(step, name, sum / n);
  return sum / n;
}

}  // namespace fit_stepper_file

void FitStepper::Total::add(const nn::Loss& loss) {
  at::Tensor s = loss.sum.detach().to(at::kDouble), n = loss.count.detach().to(at::kDouble);
  sum = sum.defined() ? sum.add(s) : s;
  count = count.defined() ? count.add(n) : n;
}

FitStepper::FitStepper(models::Model& model, const FitConfig& config, FitState& state)
    : model_(model),
      config_(config),
      state_(state),
      optimizer_(model, config, state),
      rng_(static_cast<uint64_t>(config.seed), fit_stepper_file::kStream) {
  rng_.set_position(state.rng_position);
}

void FitStepper::backward(const nn::Loss& loss, const nn::Sink& sink) {
  for (const auto& [name, auxiliary] : sink.losses) backward_auxiliary(name, auxiliary);
  for (const auto& [name, value] : sink.metrics) metrics_[name] = value.detach();
  main_.add(loss);
  loss.sum.backward();
}

// Means over several micro-batches have counts that are known only at the end, so each auxiliary loss gathers
// its gradient apart from the main one.
void FitStepper::backward_auxiliary(const std::string& name, const nn::Loss& loss) {
  Auxiliary& aux = aux_[name];
  aux.total.add(loss);
  if (!loss.sum.requires_grad()) return;
  auto params = optimizer_.params();
  std::vector<at::Tensor> main;
  aux.grads.resize(params.size());
  for (std::size_t i = 0; i < params.size(); ++i) {
    main.push_back(params[i]->master().grad());
    params[i]->master().mutable_grad() = aux.grads[i];
  }
  loss.sum.backward({}, /*retain_graph=*/true);
  for (std::size_t i = 0; i < params.size(); ++i) {
    aux.grads[i] = params[i]->master().grad();
    params[i]->master().mutable_grad() = main[i];
  }
}

// Adds w n_main / n_aux of each auxiliary gradient, since the whole is divided by n_main later.
void FitStepper::add_auxiliary(const at::Tensor& main_count) {
  at::NoGradGuard no_grad;
  auto params = optimizer_.params();
  for (auto& [name, aux] : aux_) {
    auto weight = config_.aux.find(name);
    const at::Tensor factor = main_count * (weight == config_.aux.end() ? 1.0 : weight->second) / aux.total.count;
    for (std::size_t i = 0; i < aux.grads.size(); ++i) {
      if (!aux.grads[i].defined()) continue;
      at::Tensor& grad = params[i]->master().mutable_grad();
      const at::Tensor scaled = aux.grads[i] * factor.to(aux.grads[i].scalar_type());
      grad = grad.defined() ? grad + scaled : scaled;
    }
  }
}

// All figures come to the host together: waiting for the device once a step, not once a figure.
FitStepper::Figures FitStepper::read(int64_t step) const {
  using fit_stepper_file::mean;
  std::vector<at::Tensor> scalars = {main_.sum, main_.count, optimizer_.grad_norm()};
  for (const auto& [name, aux] : aux_) scalars.insert(scalars.end(), {aux.total.sum, aux.total.count});
  for (const auto& [name, value] : metrics_) scalars.push_back(value);
  for (at::Tensor& t : scalars) t = t.to(main_.sum.device(), at::kDouble).reshape({});
  const at::Tensor host = at::stack(scalars).cpu();
  const double* next = host.const_data_ptr<double>();
  Figures figures;
  figures.count = next[1], figures.grad_norm = next[2];
  figures.loss = mean("the loss", step, next[0], next[1]);
  next += 3;
  for (const auto& [name, aux] : aux_) figures.extra[name] = mean(name, step, next[0], next[1]), next += 2;
  for (const auto& [name, value] : metrics_) figures.extra[name] = *next++;
  return figures;
}

void FitStepper::step() {
  require(main_.sum.defined(), "a task called step() before backward(): there is no gradient to step along");
  if (++pending_ == config_.accumulation) update();
}

void FitStepper::update() {
  StepReport report;
  report.step = state_.step + 1;
  add_auxiliary(main_.count);
  const Figures figures = read(report.step);
  const double count = figures.count;
  report.loss = figures.loss, report.extra = figures.extra;
  report.grad_norm = figures.grad_norm / count;
  if (!std::isfinite(report.grad_norm)) {
    fit_stepper_file::not_finite(report.step, "the norm of the gradient", report.grad_norm);
  }
  report.lr = learning_rate(config_, report.step, std::max(config_.steps, report.step));
  bool clips = config_.clip > 0 && report.grad_norm > config_.clip;
  optimizer_.update(report.step, report.lr, clips ? count * report.grad_norm / config_.clip : count);
  optimizer_.clear_gradients();
  nn::Step done{report.step};
  model_.each_module([&](nn::Module& module) { module.on_step(done); });
  state_.step = report.step;
  state_.rng_position = rng_.position();
  pending_ = 0;
  main_ = {};
  aux_.clear();
  metrics_.clear();
  reports_.push_back(std::move(report));
}

std::vector<StepReport> FitStepper::take_reports() { return std::exchange(reports_, {}); }

}  // namespace rattan::train
