// How many steps fit into a span of time.
#pragma once
#include "rattan/train/fit.h"

namespace rattan::train {

// Times a few steps and an evaluation of `model` and gives the number of steps whose training and evaluations take
// about `seconds` in all, at least 1. The model and the task are used up: start the run with fresh ones.
int64_t calibrate_steps(models::Model& model, Task& task, const FitConfig& config, double seconds);

}  // namespace rattan::train
