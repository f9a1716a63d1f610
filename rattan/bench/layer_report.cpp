#include <c10/core/ScalarType.h>
#include <fmt/core.h>

#include <nlohmann/json.hpp>
#include <optional>

#include "rattan/bench/layer.h"
#include "rattan/io/svg.h"

namespace rattan::bench {
namespace layer_report_file {

std::string human_time(double seconds) {
  if (seconds < 1e-3) return fmt::format("{:.1f} us", seconds * 1e6);
  if (seconds < 1) return fmt::format("{:.2f} ms", seconds * 1e3);
  return fmt::format("{:.3f} s", seconds);
}

// The row of `mixer` measured beside `row`, or nullptr.
const LayerRow* beside(const LayerReport& report, const LayerRow& row, const std::string& mixer) {
  for (const LayerRow& other : report.rows)
    if (other.mode == row.mode && other.seq == row.seq && other.mixer == mixer) return &other;
  return nullptr;
}

// How many times faster than the last mixer named.
double speed(const LayerReport& report, const LayerRow& row) {
  return beside(report, row, report.config.mixers.back())->time.median / row.time.median;
}

// Share of the time outside the matrix products, where those were measured.
std::optional<double> outside_products(const LayerReport& report, const LayerRow& row) {
  const LayerRow* products = beside(report, row, "products");
  if (!products || row.mixer.substr(0, 3) != "rat") return std::nullopt;
  return 1 - products->time.median / row.time.median;
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
    out += fmt::format("{:<18}{:<9}{:>8}{:>7}{:>12}{:>24}{:>10.0f}{:>7.0f}%{:>7.2f}x\n", r.mixer, r.mode, r.seq,
                       r.batch, human_time(r.time.median), human_time(r.time.low) + " to " + human_time(r.time.high),
                       r.flops / r.time.median / 1e9,
                       100 * (r.mode == "decode" ? share(r.bytes, r.time.median, report.ceilings.bytes)
                                                 : share(r.flops, r.time.median, report.ceilings.flops)),
                       speed(report, r));
  for (const LayerRow& r : report.rows)
    if (const auto share = outside_products(report, r))
      out += fmt::format("{}, {} of {} tokens: {:.0f} % of the time outside the matrix products\n", r.mixer, r.mode,
                         r.seq, 100 * *share);
  return out + fmt::format("\"of it\": share of the ceiling, bytes for decode and FLOPs else; \"speed\": against {}\n",
                           report.config.mixers.back());
}

nlohmann::json to_json(const LayerReport& report) {
  using namespace layer_report_file;
  nlohmann::json rows = nlohmann::json::array();
  for (const LayerRow& r : report.rows) {
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
                    {"speed", speed(report, r)}});
    if (const auto share = outside_products(report, r)) rows.back()["outside_products"] = *share;
  }
  return {{"d_model", report.config.d_model},       {"heads", report.config.heads},
          {"groups", report.config.groups},         {"dtype", c10::toString(report.config.dtype)},
          {"device", report.config.device.str()},   {"ceiling_flops", report.ceilings.flops},
          {"ceiling_bytes", report.ceilings.bytes}, {"rows", rows}};
}

std::string to_plot(const LayerReport& report, const std::string& mode) {
  Plot plot{.title = "One layer, " + mode,
            .x_label = "tokens T",
            .y_label = "milliseconds",
            .x_scale = Scale::log2,
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
