#include "rattan/train/fit.h"

#include <ATen/core/grad_mode.h>

#include <chrono>

#include "rattan/models/load.h"
#include "rattan/nn/block.h"
#include "rattan/nn/linear.h"
#include "rattan/train/fit_stepper.h"

namespace rattan::train {
namespace fit_file {

using Clock = std::chrono::steady_clock;

// Time and work between two updates.
struct Meter {
  Clock::time_point begin = Clock::now();
  int64_t units = 0;
  double flops = 0;

  void add(const models::Model& model, const Batch& batch) {
    auto tokens = static_cast<double>(batch.rows * batch.tokens);
    units += batch.rows * batch.tokens;
    flops += 3 * model.flops_per_token(batch.tokens) * tokens;  // the backward pass costs two forward passes
  }
  // Shared out evenly among the updates of a batch.
  void fill(std::vector<StepReport>& reports) {
    double n = static_cast<double>(reports.size());
    double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    for (StepReport& r : reports) {
      r.seconds = seconds / n;
      r.units = units / static_cast<int64_t>(reports.size());
      r.flops = flops / n;
    }
  }
};

Report evaluate(models::Model& model, Task& task, int64_t step, const FitHooks& hooks) {
  at::NoGradGuard no_grad;
  Report report = task.evaluate(model, Split::valid);
  if (hooks.on_evaluation) hooks.on_evaluation(step, report);
  return report;
}

}  // namespace fit_file

void prepare(models::Model& model, const FitConfig& config) {
  models::Precision precision = models::precision_named(config.precision);
  model.compute = precision.compute.value_or(at::kFloat);
  at::Device device = at::kCPU;
  model.each_param([&](const std::string&, nn::Param& param) {
    device = param.master().device();
    if (param.master().scalar_type() == at::kDouble) model.compute = at::kDouble;
  });
  if (model.compute == at::kDouble) precision.fp8 = ops::Fp8::off;
  model.each_module([&](nn::Module& module) {
    auto* stack = dynamic_cast<nn::Stack*>(&module);
    if (!stack) return;
    stack->checkpoint = config.checkpointing;
    nn::set_fp8(*stack, precision.fp8, device);
  });
}

FitResult fit(models::Model& model, Task& task, const FitConfig& config, FitState& state, const FitHooks& hooks) {
  using namespace fit_file;
  learning_rate(config, 1, config.steps);  // refuses a schedule that cannot be
  require(state.step <= config.steps, "the run has made {} steps, more than train.steps = {}", state.step,
          config.steps);
  prepare(model, config);
  FitStepper stepper(model, config, state);
  FitResult result;
  int64_t evaluated = -1;
  Meter meter;
  while (state.step < config.steps && !result.stopped) {
    auto batch = task.stream(Split::train).next();
    if (!batch) {
      fail("the training data ended at step {} of {}: allow more epochs, add data, or lower train.steps", state.step,
           config.steps);
    }
    task.step(model, *batch, stepper);
    meter.add(model, *batch);
    auto reports = stepper.take_reports();
    if (reports.empty()) continue;
    meter.fill(reports);
    for (const StepReport& report : reports) {
      if (hooks.on_step) hooks.on_step(report);
    }
    meter = {};
    if (!stepper.between_updates()) continue;
    int64_t before = state.step - static_cast<int64_t>(reports.size());
    bool due = config.eval_every > 0 && state.step / config.eval_every > before / config.eval_every;
    if (due || state.step >= config.steps) {
      result.final_report = evaluate(model, task, state.step, hooks);
      evaluated = state.step;
    }
    if (hooks.after_step) result.stopped = hooks.after_step(state);
    meter = {};
  }
  if (!result.stopped && evaluated != state.step) {
    result.final_report = evaluate(model, task, state.step, hooks);
  }
  result.steps = state.step;
  return result;
}

}  // namespace rattan::train
