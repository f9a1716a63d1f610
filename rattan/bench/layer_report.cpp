#include <c10/core/ScalarType.h>
#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "rattan/bench/layer.h"
#include "rattan/io/svg.h"

namespace rattan::bench {
namespace layer_report_file {

std::string human_time(double seconds) {
  if (seconds < 1e-3) return fmt::format("{:.1f} us", seconds * 1e6);
  if (seconds < 1) return fmt::format("{:.2f} ms", seconds * 1e3);
  return fmt::format("{:.3f} s", seconds);
}

// The slowest of the group is the comparison: how many times faster each row is than the last mixer named.
double baseline(const LayerReport& report, const LayerRow& row) {
  for (const LayerRow& other : report.rows)
    if (other.mode == row.mode && other.seq == row.seq && other.mixer == report.config.mixers.back())
      return other.time.median / row.time.median;
  return 1;
}

double share(double done, double seconds, double ceiling) { return ceiling > 0 ? done / seconds / ceiling : 0; }

}  // namespace layer_report_file

std::string to_table(const LayerReport& report) {
  using namespace layer_report_file;
  std::string out = fmt::format(
      "layer of d_model {}, {} heads, {} on {}; ceilings measured now: {:.0f} GFLOP/s, {:.1f} GB/s\n"
      "{:<18}{:<9}{:>8}{:>7}{:>12}{:>24}{:>10}{:>8}{:>8}\n",
      report.config.d_model, report.config.heads, c10::toString(report.config.dtype), report.config.device.str(),
      report.ceilings.flops / 1e9, report.ceilings.bytes / 1e9, "mixer", "mode", "tokens", "batch", "median",
      "lowest to highest", "GFLOP/s", "of it", "speed");
  for (const LayerRow& r : report.rows)
    out += fmt::format("{:<18}{:<9}{:>8}{:>7}{:>12}{:>24}{:>10.0f}{:>7.0f}%{:>7.2f}x\n", r.mixer, r.mode, r.seq, r.batch,
                       human_time(r.time.median), human_time(r.time.low) + " to " + human_time(r.time.high),
                       r.flops / r.time.median / 1e9,
                       100 * (r.mode == "decode" ? share(r.bytes, r.time.median, report.ceilings.bytes)
                                                 : share(r.flops, r.time.median, report.ceilings.flops)),
                       baseline(report, r));
  return out + fmt::format("\"of it\": share of the ceiling, bytes for decode and FLOPs else; \"speed\": against {}\n",
                           report.config.mixers.back());
}

nlohmann::json to_json(const LayerReport& report) {
  using namespace layer_report_file;
  nlohmann::json rows = nlohmann::json::array();
  for (const LayerRow& r : report.rows)
    rows.push_back({{"mixer", r.mixer},
                    {"mode", r.mode},
                    {"tokens", r.seq},
                    {"batch", r.batch},
                    {"seconds", r.time.median},
                    {"seconds_low", r.time.low},
                    {"seconds_high", r.time.high},
                    {"calls", r.time.calls},
                    {"flops", r.flops},
                    {"bytes", r.bytes},
                    {"speed", baseline(report, r)}});
  return {{"d_model", report.config.d_model},
          {"heads", report.config.heads},
          {"groups", report.config.groups},
          {"dtype", c10::toString(report.config.dtype)},
          {"device", report.config.device.str()},
          {"ceiling_flops", report.ceilings.flops},
          {"ceiling_bytes", report.ceilings.bytes},
          {"rows", rows}};
}

std::string to_plot(const LayerReport& report, const std::string& mode) {
  Plot plot{.title = "One layer, " + mode, .x_label = "tokens T", .y_label = "milliseconds", .x_scale = Scale::log2,
            .y_scale = Scale::log10};
  for (const std::string& mixer : report.config.mixers) {
    Series s{.name = mixer, .markers = true};
    for (const LayerRow& r : report.rows)
      if (r.mixer == mixer && r.mode == mode) {
        s.x.push_back(static_cast<double>(r.seq)), s.y.push_back(1e3 * r.time.median);
        s.low.push_back(1e3 * r.time.low), s.high.push_back(1e3 * r.time.high);
      }
    plot.series.push_back(std::move(s));
  }
  return to_svg(plot);
}

}  // namespace rattan::bench
