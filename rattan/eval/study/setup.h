// What one run of a study trains: a model, a task with its data, and how. A configuration file plus the table [recall].
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "rattan/data/tokenizer.h"
#include "rattan/models/language_model.h"
#include "rattan/tasks/language_modeling/data_config.h"
#include "rattan/tasks/recall/task.h"
#include "rattan/train/fit.h"
#include "rattan/train/run_config.h"

namespace rattan::study {

struct Setup {
  models::LanguageModelConfig model;  // [model], [mixers.<name>]
  tasks::LanguageDataConfig data;     // [data], of the task language_modeling
  tasks::RecallConfig recall;         // [recall], of the task recall
  train::FitConfig train;             // [train]
  train::RunConfig run;               // [run]
  void fields(Fields& f);

  // The context follows from the task. InputError for what cannot be together.
  void finish(const std::string& task);
};

// A copy that shares nothing; a plain copy shares the mixers' options.
Setup copy_of(const Setup& setup);

// A task and, for language, the tokenizer of its data.
struct StudyTask {
  std::unique_ptr<train::Task> task;
  const Tokenizer* tokenizer = nullptr;
};
StudyTask make_task(const Setup& setup, const std::string& task);

// Configuration as TOML, without the tables of other tasks: `rattan train` reads that of a language model.
std::string to_text(const Setup& setup, const std::string& task);

// Every key with its value as TOML writes it: "model.n_layers" -> "8".
std::map<std::string, std::string> flatten(const Setup& setup, const std::string& task);
std::map<std::string, std::string> flatten_toml(const std::string& text, const std::string& source);

// "train.steps is 50, was 100": keys whose values differ. Left out are those that no result depends on: [run], but for
// its device.
std::vector<std::string> differences(const std::map<std::string, std::string>& now,
                                     const std::map<std::string, std::string>& before);

// Sizes and costs that follow from the configuration alone.
struct Size {
  int64_t parameters = 0, non_embedding = 0;
  double training_flops = 0;  // a token, at the trained context
};
Size size_of(const Setup& setup);
int64_t state_bytes(const Setup& setup, int64_t tokens);  // of one sequence, in the type the run computes in

// Tokens that one optimizer step takes in.
int64_t tokens_per_step(const Setup& setup, const std::string& task);

}  // namespace rattan::study
