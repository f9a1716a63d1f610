// What every verb that trains a language model does: `train` from a configuration file, `demo` from its own recipe.
#pragma once
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "rattan/cli/config_file.h"
#include "rattan/tasks/language_modeling/task.h"
#include "rattan/train/run.h"
#include "rattan/train/verify_resume.h"

namespace rattan::cli {

// The configuration as TOML, every key written out.
std::string to_text(ConfigFile config);

// One language model on its data. The configuration outlives it.
class TrainingSession {
 public:
  explicit TrainingSession(const ConfigFile& config);  // sets the threads; InputError for an unknown device

  // InputError if the data is damaged or its vocabulary is larger than the model's.
  std::unique_ptr<tasks::LanguageModeling> task() const;
  std::unique_ptr<models::LanguageModel> model() const;
  train::Start start() const;
  const ConfigFile& config() const { return config_; }

 private:
  const ConfigFile& config_;
  at::Device device_;
};

struct TrainingFlags {
  std::string out;  // the run's folder
  bool resume = false, quiet = false;
  std::optional<int64_t> from;  // with resume: from the checkpoint of this step
};

// Chooses train.steps by a calibration where run.minutes asks for one, stores it, and trains. Throws as train::run.
train::RunResult run_training(ConfigFile& config, const TrainingFlags& flags);

// The result as JSON, and in a few lines for people.
nlohmann::json training_json(const TrainingFlags& flags, const train::RunResult& result);
std::string training_summary(const ConfigFile& config, const TrainingFlags& flags, const train::RunResult& result);

}  // namespace rattan::cli
