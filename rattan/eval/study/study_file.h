// A study file: a configuration file with the tables below, which say what is compared, how and what is expected.
#pragma once
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "rattan/eval/study/setup.h"

namespace rattan::study {

struct Outline {  // [study]
  std::string title, note, base, task = "language_modeling", reference, beside;
  std::vector<double> seeds = {1};
  std::vector<std::string> metrics;
  double equal_parameters = 0, confidence = 0.95;
  void fields(Fields& f);
};

struct TextSource {  // [text]
  std::string train, valid;
  int64_t holdout = 1;
  void fields(Fields& f);
};

struct Tuning {  // [tune]
  std::vector<double> lr;
  int64_t steps = 0, seed = 1001;
  void fields(Fields& f);
};

struct Evaluation {  // [evaluate]
  int64_t position_factor = 0, position_tokens = 0;
  void fields(Fields& f);
};

struct ArmEntry {  // [[arms]]
  std::string name, label, beside;
  std::vector<std::string> set;
  std::vector<double> seeds, lr;
  void fields(Fields& f);
};

struct PlotEntry {  // [[plots]]
  std::string name, title, x, y, lines, x_scale = "linear", y_scale = "linear";
  double x_from = -std::numeric_limits<double>::infinity();
  std::vector<std::string> arms;
  void fields(Fields& f);
};

struct ExpectEntry {  // [[expect]]
  std::string text, metric, arm, minus;
  std::vector<std::string> order;
  double low = -std::numeric_limits<double>::infinity(), high = std::numeric_limits<double>::infinity();
  bool whole_interval = false;
  void fields(Fields& f);
};

struct StudyFile {
  Outline study;
  TextSource text;
  Tuning tune;
  Evaluation evaluate;
  std::vector<ArmEntry> arms;
  std::vector<PlotEntry> plots;
  std::vector<ExpectEntry> expect;
  Setup base;
  void fields(Fields& f);
  void study_fields(Fields& f);  // all but the base configuration
};

// An arm with all that follows from the file.
struct Arm {
  std::string name, label, beside;
  std::vector<int64_t> seeds;
  std::vector<double> lr;  // candidates; none: setup.train.lr stands
  Setup setup;
  Size size;
};

struct Study {
  StudyFile file;
  std::vector<Arm> arms;
  std::filesystem::path folder;  // of its runs and reports
  bool learns_text() const { return !file.text.train.empty(); }
  const Arm& arm(const std::string& name) const;  // InputError names the nearest
};

// Reads and checks all that can be without data. Relative names of a base configuration count from the study's file;
// `overrides` are laid over the file, an arm's own settings over both. InputError with file and place for unknown
// keys, arms and metrics, arms of unequal size, and all else that cannot be.
Study read_study(const std::filesystem::path& path, const std::vector<std::string>& overrides,
                 const std::filesystem::path& folder);

}  // namespace rattan::study
