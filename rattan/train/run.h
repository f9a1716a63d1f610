// A training run with its files:
//
//   config.toml            the configuration, every key written out
//   metrics.jsonl          a line a step and a line an evaluation
//   tb/                    the same as TensorBoard events
//   samples.txt            what the model wrote
//   checkpoints/step-N/    io/checkpoint.h, run_state.h
//   report.html            written at the end and on interruption
#pragma once
#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "rattan/train/fit.h"
#include "rattan/train/progress.h"
#include "rattan/train/run_config.h"
#include "rattan/train/run_state.h"

namespace rattan::train {

struct RunSpec {
  std::filesystem::path folder;
  std::string title;  // of the report
  std::string config_toml;
  SaveModel save_model;
  std::function<std::string(int64_t step)> sample;  // what the model writes now; empty: no samples
  bool resume = false;               // continue from the newest checkpoint, or from the start if there is none yet
  std::optional<int64_t> from_step;  // with resume: continue from this checkpoint instead
  Progress::Output progress = Progress::standard_error();
};

struct RunResult {
  FitResult fit;
  int64_t tokens = 0;
  double seconds = 0;                                                  // in training steps, over all parts of the run
  double tokens_per_second = 0, flops_per_second = 0, peak_flops = 0;  // of this part
  std::filesystem::path checkpoint;                                    // the last one
};

// Trains, keeping the files above. Interrupted after SIGINT or SIGTERM, with everything saved. InputError if the
// folder holds a run and `resume` is off, or a checkpoint to resume from is damaged; Error for what goes wrong on
// the way (a full disk, a vanished folder, NotFinite), naming the last whole checkpoint.
RunResult run(models::Model& model, Task& task, const FitConfig& fit, const RunConfig& config, const RunSpec& spec);

// InputError if the folder holds a run and `resume` is off. `run` asks too; this is for those who would rather know
// before a long preparation.
void require_free_or_resumed(const std::filesystem::path& run_folder, bool resume);

std::filesystem::path checkpoints_of(const std::filesystem::path& run_folder);

}  // namespace rattan::train
