// Training as a function: no globals, no run folder. The verb `train` wraps it with files.
#pragma once
#include <functional>

#include "rattan/base/fields.h"
#include "rattan/train/task.h"

namespace rattan::train {

struct FitConfig {
  int64_t steps = 1000;            // optimiser steps in all
  int64_t accumulation = 1;        // micro-batches a step
  double lr = 8e-4;
  double min_lr = 1e-6;
  double warmup = 0.05;            // fraction of the steps
  std::string schedule = "cosine"; // cosine, wsd, constant
  double decay = 0.2;              // wsd: fraction of the steps that decay
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0.1;
  std::string decay_on = "all";    // all, matrices
  double clip = 1.0;               // global gradient norm, 0: off
  std::string precision = "bf16";  // bf16, fp32
  bool checkpointing = false;      // recompute activations in backward
  int64_t eval_every = 0;          // steps, 0: at the end only
  int64_t seed = 1;
  void fields(Fields& f);
};

// What one optimiser step looked like.
struct StepReport {
  int64_t step = 0;                // 1-based
  double loss = 0;                 // nats per counted unit
  double grad_norm = 0;            // before clipping
  double lr = 0;
  double seconds = 0;
  int64_t units = 0;               // tokens processed
};

// All of a training run that a resume needs beside the parameters and the data position.
struct FitState {
  int64_t step = 0;
  uint64_t rng_position = 0;
  std::map<std::string, at::Tensor> optimizer;   // exp_avg.<name>, exp_avg_sq.<name>
};

struct FitHooks {
  std::function<void(const StepReport&)> on_step;
  std::function<void(int64_t step, const Report&)> on_evaluation;
  // Called after a step; true: stop here (the state is consistent). `save` may be called inside.
  std::function<bool(const FitState&)> after_step;
};

struct FitResult {
  int64_t steps = 0;
  bool stopped = false;            // by after_step
  Report final_report;             // of the last evaluation
};

// Trains from `state` (a fresh one starts at step 0) to config.steps. Error when the loss or the gradient stops
// being finite, naming the step; parameters are then those before the step.
FitResult fit(models::Model& model, Task& task, const FitConfig& config, FitState& state, const FitHooks& hooks);

}  // namespace rattan::train
