#include "rattan/eval/study/results.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "rattan/base/error.h"
#include "rattan/eval/study/metric.h"

namespace rattan::study {
namespace results_file {

std::optional<double> of_seed(const ArmRuns& arm, int64_t seed, const std::string& metric) {
  for (std::size_t i = 0; i < arm.runs.size(); ++i)
    if (arm.arm->seeds[i] == seed && arm.runs[i]) return arm.runs[i]->metric(metric);
  return std::nullopt;
}

std::string in_words(const ExpectEntry& e, const Study& study) {
  if (!e.text.empty()) return e.text;
  std::string out = heading(e.metric) + " of ";
  if (!e.order.empty()) {
    std::vector<std::string> labels;
    for (const std::string& name : e.order) labels.push_back(study.arm(name).label);
    out += fmt::format("{}", fmt::join(labels, " < "));
  } else {
    out += study.arm(e.arm).label;
    if (!e.minus.empty()) out += " minus that of " + study.arm(e.minus).label;
    if (std::isfinite(e.low) && std::isfinite(e.high)) {
      out += fmt::format(" from {} to {}", e.low, e.high);
    } else {
      out += std::isfinite(e.low) ? fmt::format(" at least {}", e.low) : fmt::format(" at most {}", e.high);
    }
  }
  return out + (e.whole_interval ? ", with the whole interval" : "");
}

// Whether a value, or its whole interval, lies in the range.
bool within(const Interval& value, double low, double high, bool whole) {
  return whole ? value.low >= low && value.high <= high : value.mean >= low && value.mean <= high;
}

Finding judge(const ExpectEntry& e, const Study& study, const Results& all) {
  Finding out;
  out.text = in_words(e, study);
  std::vector<std::string> names = e.order;
  if (names.empty()) names = {e.arm};
  if (!e.minus.empty()) names.push_back(e.minus);
  const bool measured = !static_metric(e.metric, study.arms.front());
  for (const std::string& name : names) {
    const ArmRuns& arm = all.of(name);
    if (!measured) break;
    if (!arm.finished()) {
      out.found = fmt::format("runs of {} are missing", arm.arm->label);
      return out;
    }
    if (arm.diverged() == 0 || e.metric == "lr") continue;
    out.verdict = Verdict::fails;
    out.found = fmt::format("{} diverged with {} of {} seeds", arm.arm->label, arm.diverged(), arm.runs.size());
    return out;
  }
  bool holds = true;
  if (e.order.empty()) {
    const Interval value = e.minus.empty() ? over_seeds(study, all.of(e.arm), e.metric)
                                           : difference(study, all.of(e.arm), all.of(e.minus), e.metric);
    holds = value.n > 0 && within(value, e.low, e.high, e.whole_interval);
    out.found = e.minus.empty() ? show(e.metric, value) : show_difference(e.metric, value);
  } else {
    std::vector<std::string> values;
    for (std::size_t i = 0; i < names.size(); ++i) {
      values.push_back(show(e.metric, over_seeds(study, all.of(names[i]), e.metric)));
      if (i == 0) continue;
      const Interval step = difference(study, all.of(names[i]), all.of(names[i - 1]), e.metric);
      holds = holds && step.n > 0 && (e.whole_interval ? step.low : step.mean) > 0;
    }
    out.found = fmt::format("{}", fmt::join(values, ", "));
  }
  out.verdict = holds ? Verdict::holds : Verdict::fails;
  return out;
}

}  // namespace results_file

Interval over_seeds(const Study& study, const ArmRuns& arm, const std::string& metric) {
  if (const auto fixed = static_metric(metric, *arm.arm)) return interval({*fixed}, study.file.study.confidence);
  if (metric == "lr") return arm.lr ? interval({*arm.lr}, study.file.study.confidence) : Interval{};
  std::vector<double> values;
  for (const auto& run : arm.runs) {
    const auto value = run ? run->metric(metric) : std::nullopt;
    if (value) values.push_back(*value);
  }
  return interval(values, study.file.study.confidence);
}

Interval difference(const Study& study, const ArmRuns& a, const ArmRuns& b, const std::string& metric) {
  const double confidence = study.file.study.confidence;
  if (static_metric(metric, *a.arm) || metric == "lr") {
    const Interval left = over_seeds(study, a, metric), right = over_seeds(study, b, metric);
    return left.n > 0 && right.n > 0 ? interval({left.mean - right.mean}, confidence) : Interval{};
  }
  std::vector<double> values;
  for (int64_t seed : a.arm->seeds) {
    const auto left = results_file::of_seed(a, seed, metric), right = results_file::of_seed(b, seed, metric);
    if (left && right) values.push_back(*left - *right);
  }
  return interval(values, confidence);
}

int64_t Results::failed() const {
  return std::count_if(findings.begin(), findings.end(), [](const Finding& f) { return f.verdict == Verdict::fails; });
}

const ArmRuns& Results::of(const std::string& arm) const {
  const auto found = std::find_if(arms.begin(), arms.end(), [&](const ArmRuns& runs) { return runs.arm->name == arm; });
  require(found != arms.end(), "there is no arm '{}'", arm);
  return *found;
}

Results results(const Study& study) {
  Results out;
  out.arms = collect(study);
  out.complete = std::all_of(out.arms.begin(), out.arms.end(), [](const ArmRuns& arm) { return arm.finished(); });
  for (const ExpectEntry& entry : study.file.expect) out.findings.push_back(results_file::judge(entry, study, out));
  return out;
}

std::string show(const std::string& metric, const Interval& value) {
  if (value.n == 0) return "-";
  const std::string mean = show(metric, value.mean);
  return value.n == 1 ? mean : fmt::format("{} ± {}", mean, show(metric, value.half()));
}

std::string show_difference(const std::string& metric, const Interval& value) {
  if (value.n == 0) return "-";
  return (value.mean < 0 ? "" : "+") + show(metric, value);
}

}  // namespace rattan::study
