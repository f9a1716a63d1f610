// A configuration file. Training uses all of its tables; verbs that only need the model read the same files.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "rattan/base/fields.h"
#include "rattan/models/language_model.h"
#include "rattan/tasks/language_modeling/data_config.h"
#include "rattan/train/fit.h"
#include "rattan/train/run_config.h"

namespace rattan::cli {

struct ConfigFile {
  models::LanguageModelConfig model;  // [model], [mixers.<name>]
  tasks::LanguageDataConfig data;     // [data]
  train::FitConfig train;             // [train]
  train::RunConfig run;               // [run]
  void fields(Fields& f);
  void other_fields(Fields& f);  // all but the model's
};

// The file with `overrides` ("train.lr=3e-4") laid over it. InputError with file and line.
ConfigFile read_config_file(const std::filesystem::path& path, const std::vector<std::string>& overrides = {});

}  // namespace rattan::cli
