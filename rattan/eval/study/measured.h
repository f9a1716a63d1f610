// What one run of a study gave: result.json in its folder, written when the run is finished and measured.
#pragma once
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "rattan/eval/study/study_file.h"
#include "rattan/infer/perplexity.h"
#include "rattan/train/task.h"

namespace rattan::study {

struct Measured {
  std::optional<int64_t> diverged;  // the step whose loss or gradient was not finite; then nothing else is there
  double lr = 0, tokens_per_second = 0;
  int64_t steps = 0, tokens = 0;
  train::Report report;                                  // of the last validation
  std::vector<std::pair<int64_t, train::Report>> curve;  // of every validation, by step
  std::vector<infer::PositionLoss> by_position;
  std::optional<double> metric(const std::string& name) const;  // nothing if it was not measured
};

void save(const Measured& measured, const Evaluation& how, const std::filesystem::path& run_folder);

// Nothing if the run is not finished or was measured in another way. InputError if the file is damaged.
std::optional<Measured> load(const Evaluation& how, const std::filesystem::path& run_folder);

// The loss on the validation split by the number of tokens before the predicted one, in windows of
// how.position_factor * data.seq_len tokens that start from nothing, document by document.
std::vector<infer::PositionLoss> loss_by_position(models::Model& model, const tasks::LanguageDataConfig& data,
                                                  const Evaluation& how, const std::function<void()>& between_batches);

// Validations and speed from metrics.jsonl of the run's folder.
void read_log(const std::filesystem::path& run_folder, Measured& measured);

}  // namespace rattan::study
