#include <algorithm>
#include <cstdlib>

#include "rattan/eval/study/metric.h"
#include "rattan/eval/study/report.h"

namespace rattan::study {
namespace plots_file {

Scale scale_named(const std::string& name) {
  return name == "log2" ? Scale::log2 : name == "log10" ? Scale::log10 : Scale::linear;
}

void add(Series& series, double x, const Interval& y) {
  if (y.n == 0) return;
  series.x.push_back(x);
  series.y.push_back(y.mean);
  series.low.push_back(y.low);
  series.high.push_back(y.high);
}

std::vector<const ArmRuns*> shown(const PlotEntry& plot, const Results& results) {
  std::vector<const ArmRuns*> out;
  if (plot.arms.empty()) {
    for (const ArmRuns& arm : results.arms) out.push_back(&arm);
  } else {
    for (const std::string& name : plot.arms) out.push_back(&results.of(name));
  }
  return out;
}

Series by_position(const Study& study, const ArmRuns& arm) {
  Series out{.name = arm.arm->label, .markers = true};
  for (const auto& run : arm.runs) {
    if (!run || run->by_position.empty()) continue;
    for (const auto& range : run->by_position)
      add(out, static_cast<double>(range.to), over_seeds(study, arm, fmt::format("loss@{}", range.to)));
    break;
  }
  return out;
}

Series cut(const Series& series, double from) {
  Series out = series;
  for (auto* values : {&out.x, &out.y, &out.low, &out.high}) values->clear();
  for (std::size_t i = 0; i < series.x.size(); ++i)
    if (series.x[i] >= from) add(out, series.x[i], {series.y[i], series.low[i], series.high[i], 1});
  return out;
}

// Means over the seeds at every step at which one of them was validated.
Series by_step(const Study& study, const ArmRuns& arm, const std::string& metric) {
  std::map<int64_t, std::vector<double>> values;
  for (const auto& run : arm.runs) {
    if (!run) continue;
    for (const auto& [step, report] : run->curve)
      if (const auto value = report.find(metric); value != report.end()) values[step].push_back(value->second);
  }
  Series out{.name = arm.arm->label, .markers = values.size() < 16};
  for (const auto& [step, all] : values)
    add(out, static_cast<double>(step), interval(all, study.file.study.confidence));
  return out;
}

double x_of(const Study& study, const ArmRuns& arm, const std::string& x,
            const std::map<std::string, std::string>& keys) {
  const auto key = keys.find(x);
  if (key != keys.end()) return std::strtod(key->second.c_str(), nullptr);
  const Interval value = over_seeds(study, arm, x);
  return value.n > 0 ? value.mean : std::numeric_limits<double>::quiet_NaN();
}

// Arms as points; those with the same value of `lines` are joined, in the order of the study.
std::vector<Series> points(const Study& study, const PlotEntry& plot, const std::vector<const ArmRuns*>& arms) {
  std::vector<Series> out;
  for (const ArmRuns* arm : arms) {
    const auto keys = flatten(arm->arm->setup, study.file.study.task);
    std::string name = arm->arm->label;
    if (!plot.lines.empty())
      name = fmt::format("{} = {}", plot.lines.substr(plot.lines.rfind('.') + 1), keys.at(plot.lines));
    auto series = std::find_if(out.begin(), out.end(), [&](const Series& s) { return s.name == name; });
    if (series == out.end())
      series = out.insert(out.end(), {.name = name, .line = !plot.lines.empty(), .markers = true});
    add(*series, x_of(study, *arm, plot.x, keys), over_seeds(study, *arm, plot.y));
  }
  return out;
}

std::string axis_label(const std::string& x) {
  if (x == "position") return "tokens before the predicted one, up to";
  if (x.starts_with("state_bytes")) return heading(x) + ", bytes";
  return x.find('.') == std::string::npos ? heading(x) : x;
}

}  // namespace plots_file

std::vector<std::pair<std::string, Plot>> plots(const Study& study, const Results& results) {
  using namespace plots_file;
  std::vector<std::pair<std::string, Plot>> out;
  for (const PlotEntry& wanted : study.file.plots) {
    Plot plot;
    plot.title = wanted.title.empty() ? heading(wanted.y) : wanted.title;
    plot.x_label = axis_label(wanted.x);
    plot.y_label = heading(wanted.y);
    plot.x_scale = scale_named(wanted.x_scale);
    plot.y_scale = scale_named(wanted.y_scale);
    plot.width = 560, plot.height = 360;
    const auto arms = shown(wanted, results);
    if (wanted.x == "position" || wanted.x == "step") {
      for (const ArmRuns* arm : arms)
        plot.series.push_back(wanted.x == "step" ? by_step(study, *arm, wanted.y) : by_position(study, *arm));
    } else {
      plot.series = points(study, wanted, arms);
    }
    for (Series& series : plot.series) series = cut(series, wanted.x_from);
    out.emplace_back(wanted.name + ".svg", std::move(plot));
  }
  return out;
}

}  // namespace rattan::study
