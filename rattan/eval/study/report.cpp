#include "rattan/eval/study/report.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "rattan/base/error.h"
#include "rattan/base/files.h"
#include "rattan/eval/study/metric.h"

namespace rattan::study {
namespace report_file {

using nlohmann::json;
using Rows = std::vector<std::vector<std::string>>;

const char* word(Verdict verdict) {
  return verdict == Verdict::holds ? "holds" : verdict == Verdict::fails ? "fails" : "open";
}

bool tuned(const Study& study) {
  return std::any_of(study.arms.begin(), study.arms.end(), [](const Arm& arm) { return !arm.lr.empty(); });
}

std::string seeds_text(const ArmRuns& arm) {
  const auto done = std::count_if(arm.runs.begin(), arm.runs.end(), [](const auto& run) { return run.has_value(); });
  std::string out = done == static_cast<std::ptrdiff_t>(arm.runs.size())
                        ? fmt::format("{}", done)
                        : fmt::format("{} of {}", done, arm.runs.size());
  if (arm.diverged() > 0) out += fmt::format(" ({} diverged)", arm.diverged());
  return out;
}

// How every candidate of every arm did.
std::string tuning_text(const Study& study, const Results& results) {
  Rows rows = {{"arm", "learning rate: validation loss of the short run", "chosen"}};
  for (const ArmRuns& arm : results.arms) {
    if (arm.arm->lr.empty()) continue;
    std::vector<std::string> tried;
    for (std::size_t i = 0; i < arm.candidates.size(); ++i) {
      const auto& run = arm.candidates[i];
      const auto loss = run ? run->metric("loss") : std::nullopt;
      tried.push_back(fmt::format("{:g}: {}", arm.arm->lr[i],
                                  loss  ? fmt::format("{:.4f}", *loss)
                                  : run ? "diverged"
                                        : "missing"));
    }
    const auto [low, high] = std::minmax_element(arm.arm->lr.begin(), arm.arm->lr.end());
    std::string choice = arm.lr ? fmt::format("{:g}", *arm.lr) : "-";
    if (arm.lr && (*arm.lr == *low || *arm.lr == *high)) choice += ", at the edge";
    rows.push_back({arm.arm->label, fmt::format("{}", fmt::join(tried, ", ")), choice});
  }
  return fmt::format("\n## Learning rates\n\nEach candidate was trained for {} steps with seed {}.\n\n{}",
                     study.file.tune.steps, study.file.tune.seed, aligned(rows));
}

// All ranges that any arm has, by their last position.
std::vector<int64_t> positions(const Results& results) {
  std::vector<int64_t> out;
  for (const ArmRuns& arm : results.arms)
    for (const auto& run : arm.runs)
      if (run)
        for (const auto& range : run->by_position) out.push_back(range.to);
  std::sort(out.begin(), out.end());
  out.erase(std::unique(out.begin(), out.end()), out.end());
  return out;
}

std::string position_text(const Study& study, const Results& results) {
  std::vector<int64_t> shown = positions(results);
  constexpr std::size_t kMost = 8;  // the last ones; the plot and study.json have them all
  if (shown.size() > kMost) shown.erase(shown.begin(), shown.end() - kMost);
  Rows rows = {{"tokens before, up to"}};
  for (int64_t n : shown) rows[0].push_back(grouped(n));
  for (const ArmRuns& arm : results.arms) {
    rows.push_back({arm.arm->label});
    for (int64_t n : shown) rows.back().push_back(show("loss", over_seeds(study, arm, fmt::format("loss@{}", n))));
  }
  return fmt::format(
      "\n## Loss by position\n\nWindows of {} x the training length that start from nothing; each column begins where "
      "the one before it ends.\n\n{}",
      study.file.evaluate.position_factor, aligned(rows));
}

json to_json(const Interval& value) {
  if (value.n == 0) return nullptr;
  return {{"mean", value.mean}, {"low", value.low}, {"high", value.high}, {"n", value.n}};
}

json arm_json(const Study& study, const Results& results, const ArmRuns& arm) {
  json metrics = json::object(), runs = json::array(), tried = json::array(), by_position = json::array();
  for (const std::string& name : study.file.study.metrics) metrics[name] = to_json(over_seeds(study, arm, name));
  for (std::size_t i = 0; i < arm.runs.size(); ++i) {
    const auto& run = arm.runs[i];
    json entry = {{"seed", arm.arm->seeds[i]}, {"finished", run.has_value()}};
    for (const std::string& name : study.file.study.metrics) {
      const auto value = run ? run->metric(name) : std::nullopt;
      if (value) entry[name] = *value;
    }
    if (run && run->diverged) entry["diverged_at_step"] = *run->diverged;
    runs.push_back(std::move(entry));
  }
  for (std::size_t i = 0; i < arm.candidates.size(); ++i) {
    const auto loss = arm.candidates[i] ? arm.candidates[i]->metric("loss") : std::nullopt;
    tried.push_back({{"lr", arm.arm->lr[i]}, {"loss", loss ? json(*loss) : json(nullptr)}});
  }
  for (int64_t n : positions(results)) {
    json range = to_json(over_seeds(study, arm, fmt::format("loss@{}", n)));
    if (range.is_null()) continue;
    range["to"] = n;
    by_position.push_back(std::move(range));
  }
  json out = {{"name", arm.arm->name},         {"label", arm.arm->label},
              {"settings", json::array()},     {"lr", arm.lr ? json(*arm.lr) : json(nullptr)},
              {"metrics", std::move(metrics)}, {"runs", std::move(runs)},
              {"lr_tried", std::move(tried)},  {"loss_by_position", std::move(by_position)}};
  if (!arm.arm->beside.empty()) out["beside"] = arm.arm->beside;
  for (const ArmEntry& entry : study.file.arms)
    if (entry.name == arm.arm->name) out["settings"] = entry.set;
  const Outline& outline = study.file.study;
  if (!outline.reference.empty() && outline.reference != arm.arm->name)
    out["difference"] = to_json(difference(study, arm, results.of(outline.reference), outline.metrics.front()));
  return out;
}

std::size_t width_of(const std::string& text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

}  // namespace report_file

std::string aligned(const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()), 3);
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], report_file::width_of(row[i]));
  }
  std::string out;
  for (std::size_t r = 0; r < rows.size(); ++r) {
    for (std::size_t i = 0; i < rows[r].size(); ++i)
      out += fmt::format("| {}{} ", rows[r][i], std::string(widths[i] - report_file::width_of(rows[r][i]), ' '));
    out += "|\n";
    if (r > 0) continue;
    for (std::size_t width : widths) out += fmt::format("| {} ", std::string(width, '-'));
    out += "|\n";
  }
  return out;
}

std::string to_table(const Study& study, const Results& results) {
  using namespace report_file;
  const Outline& outline = study.file.study;
  const bool rates =
      tuned(study) && std::find(outline.metrics.begin(), outline.metrics.end(), "lr") == outline.metrics.end();
  Rows rows = {{"arm", "seeds"}};
  for (const std::string& metric : outline.metrics) rows[0].push_back(heading(metric));
  if (!outline.reference.empty())
    rows[0].push_back(
        fmt::format("{} minus {}'s", heading(outline.metrics.front()), study.arm(outline.reference).label));
  if (rates) rows[0].push_back("learning rate");
  if (!outline.beside.empty()) rows[0].push_back(outline.beside);
  for (const ArmRuns& arm : results.arms) {
    std::vector<std::string> row = {arm.arm->label, seeds_text(arm)};
    for (const std::string& metric : outline.metrics) row.push_back(show(metric, over_seeds(study, arm, metric)));
    if (!outline.reference.empty()) {
      const bool itself = outline.reference == arm.arm->name;
      const auto value =
          itself ? Interval{} : difference(study, arm, results.of(outline.reference), outline.metrics.front());
      row.push_back(show_difference(outline.metrics.front(), value));
    }
    if (rates) row.push_back(arm.lr ? fmt::format("{:g}", *arm.lr) : "-");
    if (!outline.beside.empty()) row.push_back(arm.arm->beside);
    rows.push_back(std::move(row));
  }
  return aligned(rows);
}

std::string to_findings(const Results& results) {
  if (results.findings.empty()) return "";
  report_file::Rows rows = {{"expected", "found", ""}};
  for (const Finding& finding : results.findings)
    rows.push_back({finding.text, finding.found, report_file::word(finding.verdict)});
  return aligned(rows);
}

std::string to_markdown(const Study& study, const Results& results) {
  using namespace report_file;
  const Outline& outline = study.file.study;
  std::string out = fmt::format("# {}\n\n", outline.title.empty() ? "A study" : outline.title);
  if (!outline.note.empty()) out += outline.note + "\n\n";
  if (!results.complete) out += "Runs are missing: figures and expectations are not final.\n\n";
  out += to_table(study, results);
  out += fmt::format(
      "\n±: half of the {:g} % interval over seeds, t s / sqrt(n) by Student's t with n - 1 degrees of freedom; of "
      "differences, over the differences seed by seed. A figure without it has one seed, or follows from the "
      "configuration.\n",
      100 * outline.confidence);
  if (!results.findings.empty()) out += "\n## Expectations\n\n" + to_findings(results);
  if (tuned(study)) out += tuning_text(study, results);
  if (study.file.evaluate.position_factor > 0) out += position_text(study, results);
  const auto drawn = plots(study, results);
  if (!drawn.empty()) out += "\n## Plots\n";
  for (const auto& [file, plot] : drawn) out += fmt::format("\n![{}]({})\n", plot.title, file);
  return out;
}

nlohmann::json to_json(const Study& study, const Results& results) {
  using namespace report_file;
  const Outline& outline = study.file.study;
  json arms = json::array(), findings = json::array();
  for (const ArmRuns& arm : results.arms) arms.push_back(arm_json(study, results, arm));
  for (const Finding& finding : results.findings)
    findings.push_back({{"expected", finding.text}, {"found", finding.found}, {"verdict", word(finding.verdict)}});
  json out = {{"title", outline.title},
              {"task", outline.task},
              {"confidence", outline.confidence},
              {"complete", results.complete},
              {"metrics", outline.metrics},
              {"arms", std::move(arms)},
              {"expectations", std::move(findings)},
              {"failed", results.failed()}};
  if (!outline.reference.empty()) out["reference"] = outline.reference;
  return out;
}

void write_reports(const Study& study, const Results& results) {
  for (const auto& [file, plot] : plots(study, results)) write_file(study.folder / file, to_svg(plot));
  write_file(study.folder / "study.json", to_json(study, results).dump(2) + "\n");
  write_file(study.folder / "study.md", to_markdown(study, results));
}

}  // namespace rattan::study
