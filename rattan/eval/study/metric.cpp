#include "rattan/eval/study/metric.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>

#include "rattan/base/config.h"
#include "rattan/base/error.h"
#include "rattan/train/progress.h"

namespace rattan::study {
namespace metric_file {

std::vector<std::string> known(const Study& study) {
  std::vector<std::string> out = {
      "loss",           "tokens_per_second", "lr",           "parameters", "non_embedding_parameters",
      "training_flops", "state_bytes",       "state_bytes@N"};
  if (study.file.study.task == "recall") {
    out.insert(out.begin() + 1, "accuracy");
  } else {
    out.insert(out.begin() + 1, {"perplexity", "bits_per_byte", "loss@N"});
  }
  return out;
}

// Positions are counted in ranges that double, and the last one ends with the window.
bool ends_a_range(int64_t n, int64_t window) {
  return n >= 1 && n <= window && (n == window || std::has_single_bit(static_cast<uint64_t>(n)));
}

std::string bytes_text(double bytes) {
  if (bytes < 1e4) return fmt::format("{} B", grouped(std::llround(bytes)));
  if (bytes < 1e7) return fmt::format("{:.1f} kB", bytes / 1e3);
  return fmt::format("{:.1f} MB", bytes / 1e6);
}

}  // namespace metric_file

std::optional<int64_t> at_length(const std::string& name, const std::string& metric) {
  if (!name.starts_with(metric + "@")) return std::nullopt;
  const char* begin = name.data() + metric.size() + 1;
  const char* end = name.data() + name.size();
  int64_t n = 0;
  const auto [stopped, error] = std::from_chars(begin, end, n);
  if (error != std::errc() || stopped != end || n < 1) return std::nullopt;
  return n;
}

void require_metric(const std::string& name, const Study& study, const std::string& place) {
  using namespace metric_file;
  if (at_length(name, "state_bytes")) return;
  const auto names = known(study);
  if (const auto n = at_length(name, "loss"); n && study.file.study.task == "language_modeling") {
    const int64_t factor = study.file.evaluate.position_factor;
    require(factor > 0, "{}: '{}' is a loss by position; set evaluate.position_factor", place, name);
    for (const Arm& arm : study.arms) {
      const int64_t window = factor * arm.setup.data.seq_len;
      require(ends_a_range(*n, window),
              "{}: '{}' must name a power of 2 up to {}, the window's length (position_factor x seq_len) in arm '{}'",
              place, name, window, arm.name);
    }
    return;
  }
  if (name.find('@') == std::string::npos && std::find(names.begin(), names.end(), name) != names.end()) return;
  const std::string near = nearest(name, names);
  fail_input("{}: the task {} has no metric '{}'{}; there are: {}", place, study.file.study.task, name,
             near.empty() ? "" : fmt::format(" (did you mean '{}'?)", near), fmt::join(names, ", "));
}

std::optional<double> static_metric(const std::string& name, const Arm& arm) {
  if (name == "parameters") return static_cast<double>(arm.size.parameters);
  if (name == "non_embedding_parameters") return static_cast<double>(arm.size.non_embedding);
  if (name == "training_flops") return arm.size.training_flops;
  if (name == "state_bytes") return static_cast<double>(state_bytes(arm.setup, arm.setup.model.context));
  if (const auto n = at_length(name, "state_bytes")) return static_cast<double>(state_bytes(arm.setup, *n));
  return std::nullopt;
}

std::string grouped(int64_t n) {
  std::string out = std::to_string(n);
  for (auto at = static_cast<std::ptrdiff_t>(out.size()) - 3; at > (n < 0 ? 1 : 0); at -= 3)
    out.insert(static_cast<std::size_t>(at), ",");
  return out;
}

std::string show(const std::string& metric, double value) {
  using namespace metric_file;
  if (!std::isfinite(value)) return fmt::format("{}", value);
  if (metric.starts_with("state_bytes")) return bytes_text(value);
  if (metric.ends_with("parameters")) return grouped(std::llround(value));
  if (metric == "tokens_per_second" || metric == "training_flops") return train::human_count(value);
  if (metric == "lr") return fmt::format("{:.3g}", value);
  return fmt::format("{:.{}f}", value, metric == "perplexity" ? 3 : 4);
}

std::string heading(const std::string& metric) {
  std::string out = metric;
  if (const std::size_t at = out.find('@'); at != std::string::npos) {
    const std::string name = out.substr(0, at);
    out = fmt::format("{} at {}", name, grouped(at_length(metric, name).value_or(0)));
  }
  if (out == "tokens_per_second") return "tokens/s";
  if (out == "training_flops") return "training FLOPs a token";
  if (out == "lr") return "learning rate";
  if (out == "non_embedding_parameters") return "parameters without embedding";
  if (out == "bits_per_byte") return "bits per byte";
  if (out.starts_with("state_bytes")) return "state" + out.substr(11);
  return out;
}

}  // namespace rattan::study
