#include "rattan/eval/study/study_file.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "rattan/base/config.h"
#include "rattan/base/config_node.h"
#include "rattan/base/error.h"
#include "rattan/base/files.h"
#include "rattan/eval/study/metric.h"

namespace rattan::study {
namespace study_file_file {

namespace fs = std::filesystem;

std::vector<int64_t> whole(const std::vector<double>& values, const std::string& place) {
  std::vector<int64_t> out;
  for (double v : values) {
    require(std::trunc(v) == v && v <= 1e9, "{}: a seed must be a whole number up to 1e9, got {}", place, v);
    const auto seed = static_cast<int64_t>(v);
    require(std::find(out.begin(), out.end(), seed) == out.end(), "{}: the seed {} is named twice", place, seed);
    out.push_back(seed);
  }
  return out;
}

void require_name(const std::string& name, const std::string& what, std::set<std::string>& taken) {
  const bool plain = !name.empty() && name.front() != '.' && std::all_of(name.begin(), name.end(), [](unsigned char c) {
    return (std::isalnum(c) != 0 && c < 0x80) || c == '-' || c == '_' || c == '.';
  });
  require(plain, "{} must have a name of letters, digits, '-', '_' and '.', got '{}'", what, name);
  require(taken.insert(name).second, "{}: the name '{}' is there twice", what, name);
}

Arm resolve(const ArmEntry& entry, const StudyFile& file, const Study& study) {
  const std::string place = fmt::format("arm '{}'", entry.name);
  Arm arm;
  arm.name = entry.name;
  arm.label = entry.label.empty() ? entry.name : entry.label;
  arm.beside = entry.beside;
  arm.seeds = whole(entry.seeds.empty() ? file.study.seeds : entry.seeds, place);
  require(!arm.seeds.empty(), "{}: no seeds; study.seeds needs at least one", place);
  arm.lr = entry.lr.empty() ? file.tune.lr : entry.lr;
  require(arm.lr.size() != 1, "{}: one learning rate is no choice; set train.lr instead of tune.lr", place);
  require(arm.lr.empty() || file.tune.steps > 0, "{}: tune.steps must say how long a run that tries a learning rate is",
          place);
  arm.setup = copy_of(file.base);
  try {
    ConfigTree tree = ConfigTree::empty();
    tree.override_with(entry.set);
    tree.read(arm.setup);
    if (study.learns_text()) {
      require(file.study.task == "language_modeling", "[text] is for the task language_modeling");
      require(arm.setup.data.sources.empty(),
              "data.sources and [text] are both given; the data is either there or made");
      StreamSource source;
      source.path = (study.folder / "data").string();
      arm.setup.data.sources = {source};
    }
    arm.setup.finish(file.study.task);
    require(file.study.task != "language_modeling" || !arm.setup.data.sources.empty(),
            "no data: name texts in [text], as in text.train=my/texts, or packed data in data.sources");
    arm.size = size_of(arm.setup);
  } catch (const InputError& error) {
    fail_input("{}: {}", place, error.what());
  }
  return arm;
}

// The width of the feed-forward layers at which the arm would have `target` parameters.
int64_t width_for(const Arm& arm, int64_t target) {
  Setup wider = arm.setup;
  int64_t& hidden = wider.model.ffn.hidden;
  if (hidden == 0) hidden = 4 * wider.model.d_model;
  const int64_t before = hidden;
  hidden += 64;
  const double slope = static_cast<double>(size_of(wider).non_embedding - arm.size.non_embedding) / 64;
  if (slope <= 0) return 0;
  return before + std::llround(static_cast<double>(target - arm.size.non_embedding) / slope);
}

void require_equal(const Study& study) {
  const double bound = study.file.study.equal_parameters;
  if (bound == 0) return;
  const auto less = [](const Arm& a, const Arm& b) { return a.size.non_embedding < b.size.non_embedding; };
  const auto [small, large] = std::minmax_element(study.arms.begin(), study.arms.end(), less);
  const double apart =
      static_cast<double>(large->size.non_embedding) / static_cast<double>(small->size.non_embedding) - 1;
  if (apart <= bound) return;
  const int64_t width = width_for(*small, large->size.non_embedding);
  fail_input(
      "the arms '{}' and '{}' have {} and {} parameters without embeddings, {:.2f} % apart; study.equal_parameters "
      "allows {:.2f} %{}",
      small->name, large->name, grouped(small->size.non_embedding), grouped(large->size.non_embedding), 100 * apart,
      100 * bound,
      width > 0 ? fmt::format(". model.ffn.hidden={} in '{}' would make them equal", width, small->name) : "");
}

void check_plot(const PlotEntry& plot, const Study& study, const std::string& place) {
  for (const std::string& name : plot.arms) {
    require(!name.empty(), "{}: an arm without a name", place);
    study.arm(name);
  }
  const bool language = study.file.study.task == "language_modeling";
  if (plot.x == "position") {
    require(plot.y == "loss", "{}: over the position only the loss is known, not '{}'", place, plot.y);
    require(language && study.file.evaluate.position_factor > 0, "{}: x = \"position\" needs evaluate.position_factor",
            place);
    return;
  }
  require_metric(plot.y, study, place);
  if (plot.x == "step") {
    require(plot.y == "loss" || plot.y == "perplexity" || plot.y == "bits_per_byte" || plot.y == "accuracy",
            "{}: '{}' is not known at every step, only what validation reports", place, plot.y);
    return;
  }
  for (const Arm& arm : study.arms) {
    require(plot.lines.empty() || flatten(arm.setup, study.file.study.task).contains(plot.lines),
            "{}: arm '{}' has no key '{}' to tell lines by", place, arm.name, plot.lines);
  }
  for (const Arm& arm : study.arms) {
    const auto keys = flatten(arm.setup, study.file.study.task);
    const auto found = keys.find(plot.x);
    if (found == keys.end()) return require_metric(plot.x, study, place);
    require(found->second.find_first_not_of("0123456789.e+-") == std::string::npos,
            "{}: x must be a number, but {} is {} in arm '{}'", place, plot.x, found->second, arm.name);
  }
}

void check_expectation(const ExpectEntry& e, const Study& study, const std::string& place) {
  require_metric(e.metric, study, place);
  if (!e.order.empty()) {
    require(e.arm.empty() && e.minus.empty(), "{}: give either order or arm, not both", place);
    require(e.order.size() >= 2, "{}: an order needs at least 2 arms", place);
    for (const std::string& name : e.order) study.arm(name);
    return;
  }
  require(!e.arm.empty(), "{}: name an arm, or arms in order", place);
  study.arm(e.arm);
  if (!e.minus.empty()) study.arm(e.minus);
  require(std::isfinite(e.low) || std::isfinite(e.high), "{}: give low, high or both", place);
  require(e.low <= e.high, "{}: low = {} is above high = {}", place, e.low, e.high);
}

// study.base must be known before the file is read, since the file's tables are laid over it.
std::string base_of(const fs::path& path, const std::vector<std::string>& overrides) {
  const std::string key = "study.base=";
  for (auto at = overrides.rbegin(); at != overrides.rend(); ++at)
    if (at->starts_with(key)) return at->substr(key.size());
  const ConfigNode root = parse_toml(read_file(path), path.string());
  const ConfigNode* table = root.find("study");
  const ConfigNode* base = table == nullptr ? nullptr : table->find("base");
  const auto* name = base == nullptr ? nullptr : std::get_if<std::string>(&base->value);
  return name == nullptr ? "" : *name;
}

template <class Check>
void at_place(const std::string& place, const Check& check) {
  try {
    check();
  } catch (const InputError& error) {
    const std::string what = error.what();
    if (what.starts_with(place)) throw;
    fail_input("{}: {}", place, what);
  }
}

void check(Study& study) {
  Outline& outline = study.file.study;
  if (outline.metrics.empty()) {
    outline.metrics = outline.task == "recall" ? std::vector<std::string>{"accuracy", "loss"}
                                               : std::vector<std::string>{"loss", "perplexity"};
    outline.metrics.insert(outline.metrics.end(), {"non_embedding_parameters", "state_bytes"});
  }
  for (const std::string& name : outline.metrics) require_metric(name, study, "study.metrics");
  if (!outline.reference.empty()) at_place("study.reference", [&] { study.arm(outline.reference); });
  require(study.file.evaluate.position_factor == 0 || outline.task == "language_modeling",
          "evaluate.position_factor is for the task language_modeling");
  require_equal(study);
  std::set<std::string> names;
  for (const PlotEntry& plot : study.file.plots) {
    require_name(plot.name, "a plot", names);
    const std::string place = fmt::format("plot '{}'", plot.name);
    at_place(place, [&] { check_plot(plot, study, place); });
  }
  for (std::size_t i = 0; i < study.file.expect.size(); ++i) {
    const std::string place = fmt::format("expect.{}", i);
    at_place(place, [&] { check_expectation(study.file.expect[i], study, place); });
  }
}

}  // namespace study_file_file

const Arm& Study::arm(const std::string& name) const {
  std::vector<std::string> known;
  for (const Arm& a : arms) {
    if (a.name == name) return a;
    known.push_back(a.name);
  }
  const std::string near = nearest(name, known);
  fail_input("there is no arm '{}'{}; there are: {}", name,
             near.empty() ? "" : fmt::format(" (did you mean '{}'?)", near), fmt::join(known, ", "));
}

Study read_study(const std::filesystem::path& path, const std::vector<std::string>& overrides,
                 const std::filesystem::path& folder) {
  using namespace study_file_file;
  ConfigTree tree = ConfigTree::from_file(path);
  tree.override_with(overrides);
  Study study;
  study.folder = folder;
  const std::string base = base_of(path, overrides);
  if (!base.empty()) ConfigTree::from_file(path.parent_path() / base).read(study.file.base);
  tree.read(study.file);
  try {
    require(!study.file.arms.empty(), "a study compares arms; add tables [[arms]] with a name each");
    std::set<std::string> names;
    for (const ArmEntry& entry : study.file.arms) require_name(entry.name, "an arm", names);
    for (const ArmEntry& entry : study.file.arms) study.arms.push_back(resolve(entry, study.file, study));
    check(study);
  } catch (const InputError& error) {
    fail_input("{}: {}", path.string(), error.what());
  }
  return study;
}

}  // namespace rattan::study
