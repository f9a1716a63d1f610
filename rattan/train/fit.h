// Training as a function: no globals, no run folder. The verb `train` wraps it with files (run.h).
#pragma once
#include <functional>

#include "rattan/base/error.h"
#include "rattan/base/fields.h"
#include "rattan/train/schedule.h"
#include "rattan/train/task.h"

namespace rattan::train {

// AdamW (Loshchilov & Hutter, 2019) on fp32 masters: with g the mean gradient, clipped to a global norm of
// `clip`, m = beta1 m + (1 - beta1) g, v = beta2 v + (1 - beta2) g^2, and
// w = w - lr (m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay w), t = 1, 2, ...
struct FitConfig : ScheduleConfig {
  int64_t steps = 1000;
  int64_t accumulation = 1;
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0.1;
  std::string decay_on = "all";
  double clip = 1.0;
  std::string precision = "bf16";
  bool checkpointing = false;
  int64_t eval_every = 0;
  int64_t seed = 1;
  std::map<std::string, double> aux;  // weight of each auxiliary loss (a task sets it); 1 where not named
  void fields(Fields& f);
};

// What one optimizer step looked like.
struct StepReport {
  int64_t step = 0;      // 1-based
  double loss = 0;       // nats per counted unit
  double grad_norm = 0;  // before clipping
  double lr = 0;
  double seconds = 0;  // since the step before, evaluation and hooks left out
  int64_t units = 0;   // tokens processed
  double flops = 0;    // the model's own, forward and backward, without recomputation
  Report extra;        // auxiliary losses (mean) and metrics of the sinks
};

// All of a training run that a resume needs beside the parameters and the data position.
struct FitState {
  int64_t step = 0;
  uint64_t rng_position = 0;
  std::map<std::string, at::Tensor> optimizer;  // exp_avg.<name>, exp_avg_sq.<name>: updated in place
};

struct FitHooks {
  std::function<void(const StepReport&)> on_step;
  std::function<void(int64_t step, const Report&)> on_evaluation;
  // Called when a step is complete and batch and state agree; true: stop here.
  std::function<bool(const FitState&)> after_step;
};

struct FitResult {
  int64_t steps = 0;
  bool stopped = false;  // by after_step
  Report final_report;   // of the last evaluation
};

// The loss or the gradient of a step is not finite. Parameters and optimizer are those before that step.
struct NotFinite : Error {
  NotFinite(int64_t at_step, const std::string& text) : Error(text), step(at_step) {}
  int64_t step;
};

// Trains from `state` (a fresh one starts at step 0) to config.steps and evaluates at the end. A task that
// updates more than once a batch may end a few steps later. Deterministic: config, parameters, state and data
// position decide the result, bit for bit on one machine.
// InputError for a configuration or state that cannot be, NotFinite as above, Error when the data ends early.
FitResult fit(models::Model& model, Task& task, const FitConfig& config, FitState& state, const FitHooks& hooks);

// What `fit` does to a model before the first step: computing type (float64 masters compute in float64), fp8 in the
// projections of its stacks, and activation recomputation.
void prepare(models::Model& model, const FitConfig& config);

}  // namespace rattan::train
