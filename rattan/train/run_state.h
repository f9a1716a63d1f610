// The files of a training checkpoint: model.safetensors, optimizer.safetensors, carried.safetensors (tasks that carry
// a state), state.json, and what the caller adds to make the folder a model.
#pragma once
#include <filesystem>
#include <functional>
#include <map>
#include <string>

#include "rattan/train/fit.h"

namespace rattan::train {

// Beside FitState, what the log of a run goes on from.
struct RunState {
  FitState fit;
  int64_t tokens = 0;
  double seconds = 0;  // spent in training steps
};

using Tensors = std::map<std::string, at::Tensor>;
// Writes model.safetensors with these tensors, and whatever else makes `folder` usable as a model.
using SaveModel = std::function<void(const std::filesystem::path& folder, const Tensors& tensors)>;

// Masters and persistent buffers by full name; they alias the model's.
Tensors model_tensors(models::Model& model);

// RATTAN_TEST_SLOW_CHECKPOINT_MS in the environment makes a pause of so many milliseconds before each file, so that
// tests can interrupt a write.
void save_run_state(const std::filesystem::path& folder, models::Model& model, Task& task, const RunState& state,
                    const SaveModel& save_model);

// Fills model, task and state. InputError names the file that does not fit this model or task; what was loaded until
// then must not be used.
void load_run_state(const std::filesystem::path& folder, models::Model& model, Task& task, RunState& state);

}  // namespace rattan::train
