#include "rattan/train/run_report.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "rattan/base/files.h"
#include "rattan/io/html_report.h"
#include "rattan/train/metrics.h"
#include "rattan/train/samples.h"

namespace rattan::train {
namespace run_report_file {

using Lines = std::vector<nlohmann::json>;

// The values of one key over steps.
Series series(const Lines& lines, const char* key, const char* name) {
  Series out{.name = name};
  for (const auto& line : lines) {
    auto value = line.find(key);
    if (value == line.end() || !value->is_number()) continue;
    out.x.push_back(line["step"].get<double>());
    out.y.push_back(value->get<double>());
  }
  return out;
}

// An exponential mean over about a fiftieth of the run, freed of its bias towards the start.
Series smoothed(const Series& raw, const char* name) {
  Series out{.name = name, .x = raw.x};
  double window = std::max(1.0, static_cast<double>(raw.y.size()) / 50), keep = 1 - 1 / window;
  double sum = 0, weight = 0;
  for (double y : raw.y) {
    sum = keep * sum + (1 - keep) * y;
    weight = keep * weight + (1 - keep);
    out.y.push_back(sum / weight);
  }
  return out;
}

Plot curve(const Lines& lines, const char* key, const char* title, const char* unit, bool smooth) {
  Plot plot{.title = title, .x_label = "step", .y_label = unit};
  Series raw = series(lines, key, "");
  if (smooth) {
    raw.faint = true;
    plot.series = {raw, smoothed(raw, "")};
  } else {
    plot.series = {raw};
  }
  return plot;
}

std::vector<Plot> plots(const Lines& lines) {
  Plot loss{.title = "Loss", .x_label = "step", .y_label = "nats per token"};
  Series raw = series(lines, "loss", "each step"), valid = series(lines, "valid_loss", "validation");
  raw.faint = true;
  valid.markers = true;
  loss.series = {raw, smoothed(raw, "training, smoothed")};
  if (!valid.x.empty()) loss.series.push_back(valid);
  std::vector<Plot> out = {loss};
  Series bits = series(lines, "valid_bits_per_byte", "");
  if (!bits.x.empty()) {
    bits.markers = true;
    out.push_back({.title = "Validation, bits per byte", .x_label = "step", .series = {bits}});
  }
  out.push_back(curve(lines, "lr", "Learning rate", "", false));
  out.push_back(curve(lines, "grad_norm", "Norm of the gradient", "before clipping", true));
  Plot speed = curve(lines, "tokens_per_second", "Speed", "tokens/s", true);
  speed.y_from_zero = true;
  out.push_back(speed);
  Plot use = curve(lines, "mfu", "Model-FLOP utilization", "share of the peak", true);
  use.y_from_zero = true;
  out.push_back(use);
  return out;
}

const nlohmann::json* last_with(const Lines& lines, const char* key) {
  for (auto line = lines.rbegin(); line != lines.rend(); ++line) {
    if (line->contains(key) && (*line)[key].is_number()) return &(*line)[key];
  }
  return nullptr;
}

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

std::vector<std::pair<std::string, std::string>> figures(const Lines& lines, const FitConfig& fit) {
  std::vector<std::pair<std::string, std::string>> out;
  auto add = [&](const char* name, const char* key, auto&& form) {
    if (const auto* value = last_with(lines, key)) out.emplace_back(name, form(value->get<double>()));
  };
  auto four = [](double v) { return fmt::format("{:.4f}", v); };
  const auto* step = last_with(lines, "step");
  out.emplace_back("steps", fmt::format("{} of {}", step ? step->get<int64_t>() : 0, fit.steps));
  add("validation bits per byte", "valid_bits_per_byte", four);
  add("validation loss", "valid_loss", four);
  add("training loss", "loss", four);
  add("tokens", "tokens", human_count);
  add("time in steps", "seconds", human_duration);
  if (last_with(lines, "tokens_per_second")) {
    out.emplace_back("tokens/s (median)", human_count(median(series(lines, "tokens_per_second", "").y)));
    out.emplace_back("utilization (median)", fmt::format("{:.0f} %", 100 * median(series(lines, "mfu", "").y)));
  }
  return out;
}

}  // namespace run_report_file

void write_report(const RunSpec& spec, const FitConfig& fit) {
  using namespace run_report_file;
  Lines lines = read_metrics(spec.folder / "metrics.jsonl");
  HtmlReport report(spec.title.empty() ? spec.folder.filename().string() : spec.title, "A training run of Rattan");
  report.section("Result");
  report.figures(figures(lines, fit));
  report.section("Curves");
  report.plots(plots(lines));
  auto samples = read_samples(spec.folder / "samples.txt");
  if (!samples.empty()) report.section("Samples");
  std::size_t shown = std::min<std::size_t>(samples.size(), 5);
  for (std::size_t i = samples.size(); i > samples.size() - shown; --i) {
    report.preformatted(samples[i - 1].text, fmt::format("step {}", samples[i - 1].step));
  }
  report.section("Configuration");
  report.preformatted(spec.config_toml);
  write_file(spec.folder / "report.html", report.html());
}

}  // namespace rattan::train
