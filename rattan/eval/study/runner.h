// Trains and measures the runs of a study, each in a run folder of its own (train/run.h):
//
//   FOLDER/study.toml                  the study, every key written out
//   FOLDER/tokenizer.model, data/      made from the texts of [text]; text.toml says from which
//   FOLDER/runs/ARM/lr-RATE/           short runs that try a learning rate
//   FOLDER/runs/ARM/seed-N/            the runs that count
//     result.json                      what was measured; a run that has it is not run again
#pragma once
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "rattan/eval/study/measured.h"

namespace rattan::study {

struct Selection {
  std::vector<std::string> arms;  // none: all
  std::vector<int64_t> seeds;     // none: all
  bool quiet = false;             // no progress of single runs
  std::function<void(const std::string&)> note;
};

// An arm with what there is of its runs.
struct ArmRuns {
  const Arm* arm = nullptr;
  std::vector<std::optional<Measured>> candidates;  // as arm->lr
  std::vector<std::optional<Measured>> runs;        // as arm->seeds
  std::optional<double> lr;                         // chosen or given; nothing while candidates are missing
  bool finished() const;
  int64_t diverged() const;
};

// The candidate with the least validation loss, the lower rate where two are equal. Nothing while one is missing
// or if all diverged.
std::optional<double> chosen_rate(const Arm& arm, const std::vector<std::optional<Measured>>& candidates);

// What is finished in the study's folder. InputError if a run there has another configuration than the study gives it,
// naming what differs.
std::vector<ArmRuns> collect(const Study& study);

// Runs what is selected and not finished, going on where earlier calls were interrupted. Errors as train::run;
// Interrupted says how to go on. A run whose loss is not finite counts as diverged, and the study goes on.
void run_study(const Study& study, const Selection& selection);

}  // namespace rattan::study
