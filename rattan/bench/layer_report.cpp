#include <c10/core/ScalarType.h>
#include <fmt/core.h>

#include <nlohmann/json.hpp>
#include <optional>

#include "rattan/base/version.h"
#include "rattan/bench/human.h"
#include "rattan/bench/layer.h"
#include "rattan/io/svg.h"

namespace rattan::bench {
namespace layer_report_file {

// The row of `mixer` measured beside `row`, or nullptr.
const LayerRow* beside(const LayerReport& report, const LayerRow& row, const std::string& mixer) {
  for (const LayerRow& other : report.rows)
    if (other.mode == row.mode && other.seq == row.seq && other.mixer == mixer) return &other;
  return nullptr;
}

// How many times faster than the comparison.
double speed(const LayerReport& report, const LayerRow& row) {
  return beside(report, row, comparison_of(report.config))->time.median / row.time.median;
}

// The time as a multiple of rat's matrix products alone, where those were measured.
std::optional<double> multiple(const LayerReport& report, const LayerRow& row) {
  const LayerRow* products = beside(report, row, "products");
  if (!products || products == &row) return std::nullopt;
  return row.time.median / products->time.median;
}

// Share of the time outside the matrix products: they are rat's, in the precision of the row.
std::optional<double> outside_products(const LayerReport& report, const LayerRow& row) {
  const size_t plus = row.mixer.find('+');
  const LayerRow* products =
      beside(report, row, plus == std::string::npos ? "products" : "products" + row.mixer.substr(plus));
  if (!products || row.mixer.substr(0, 3) != "rat") return std::nullopt;
  return 1 - products->time.median / row.time.median;
}

// Share of the ceiling: bytes for decoding, arithmetic else.
double share(const LayerReport& report, const LayerRow& row) {
  const bool decode = row.mode == "decode";
  const double done = decode ? row.bytes : row.flops;
  const double ceiling = decode ? report.ceilings.bytes : report.ceilings.flops;
  return ceiling > 0 ? done / row.time.median / ceiling : 0;
}

}  // namespace layer_report_file

std::string to_table(const LayerReport& report) {
  using namespace layer_report_file;
  const LayerBench& c = report.config;
  std::string documents;
  for (int64_t length : c.documents) documents += fmt::format("{}{}", documents.empty() ? "" : ", ", length);
  std::string out =
      fmt::format("layer of d_model {}, {} heads, {} on {}{}{}; ceilings measured now: {:.1f} TFLOP/s, {:.1f} GB/s\n",
                  c.d_model, c.heads, c10::toString(c.dtype), c.device.str(), report.device_name.empty() ? "" : ", ",
                  report.device_name, report.ceilings.flops / 1e12, report.ceilings.bytes / 1e9);
  if (!documents.empty()) out += fmt::format("every row is filled with documents of {} tokens\n", documents);
  if (!c.note.empty()) out += c.note + "\n";
  out += fmt::format("{:<19} {:<9}{:>8}{:>7}{:>12}{:>24}{:>7}{:>10}{:>7}{:>10}{:>8}{:>9}{:>7}\n", "mixer", "mode",
                     "tokens", "batch", "median", "lowest to highest", "calls", "TFLOP/s", "of it", "products", "speed",
                     "peak GB", "MHz");
  for (const LayerRow& r : report.rows)
    out += fmt::format("{:<19} {:<9}{:>8}{:>7}{:>12}{:>24}{:>7}{:>10.3g}{:>6.0f}%{:>10}{:>7.2f}x{:>9}{:>7}\n", r.mixer,
                       r.mode, r.seq, r.batch, human_time(r.time.median),
                       human_time(r.time.low) + " to " + human_time(r.time.high), r.time.calls,
                       r.flops / r.time.median / 1e12, 100 * share(report, r), or_dash(multiple(report, r), 2, "x"),
                       speed(report, r), or_dash(gigabytes(r.peak_bytes), 2), or_dash(r.clock_mhz, 0));
  for (const LayerRow& r : report.rows)
    if (const auto share = outside_products(report, r))
      out += fmt::format("{}, {} of {} tokens: {:.0f} % of the time outside the matrix products\n", r.mixer, r.mode,
                         r.seq, 100 * *share);
  return out + fmt::format(
                   "\"of it\": share of the ceiling, bytes for decode and FLOPs else; \"products\": the time as a "
                   "multiple of\nrat's matrix products alone; \"speed\": against {}\n",
                   comparison_of(c));
}

nlohmann::json to_json(const LayerReport& report) {
  using namespace layer_report_file;
  const LayerBench& c = report.config;
  nlohmann::json rows = nlohmann::json::array();
  for (const LayerRow& r : report.rows) {
    nlohmann::json& row = rows.emplace_back();
    row = {{"mixer", r.mixer},
           {"mode", r.mode},
           {"tokens", r.seq},
           {"batch", r.batch},
           {"seconds", r.time.median},
           {"seconds_low", r.time.low},
           {"seconds_high", r.time.high},
           {"calls", r.time.calls},
           {"layers_a_call", r.repeats},
           {"flops", r.flops},
           {"bytes", r.bytes},
           {"flops_per_second", r.flops / r.time.median},
           {"share_of_ceiling", share(report, r)},
           {"speed", speed(report, r)}};
    if (const auto times = multiple(report, r)) row["multiple_of_products"] = *times;
    if (const auto outside = outside_products(report, r)) row["outside_products"] = *outside;
    if (r.peak_bytes) row["peak_bytes"] = *r.peak_bytes;
    if (r.clock_mhz) row["clock_mhz"] = *r.clock_mhz;
  }
  return {{"version", version()},
          {"note", c.note},
          {"d_model", c.d_model},
          {"heads", c.heads},
          {"groups", c.groups},
          {"dtype", c10::toString(c.dtype)},
          {"cache", c.cache_in_8_bits ? "8bit" : "full"},
          {"device", c.device.str()},
          {"device_name", report.device_name},
          {"documents", c.documents},
          {"against", comparison_of(c)},
          {"ceiling_flops", report.ceilings.flops},
          {"ceiling_bytes", report.ceilings.bytes},
          {"rows", rows}};
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
