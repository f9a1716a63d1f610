#include <c10/core/ScalarType.h>
#include <fmt/core.h>

#include <nlohmann/json.hpp>
#include <optional>

#include "rattan/base/version.h"
#include "rattan/bench/human.h"
#include "rattan/bench/model.h"

namespace rattan::bench {
namespace model_report_file {

const ModelRow* products_of(const ModelReport& report, const ModelRow& row) {
  if (row.mode != "train") return nullptr;
  for (const ModelRow& other : report.rows)
    if (other.mode == "products" && other.model == row.model && other.tokens == row.tokens) return &other;
  return nullptr;
}

double rate(const ModelRow& row) { return row.flops / row.time.median; }

// Of the data sheet's FLOP/s; of those that the model's matrix products alone reach.
std::optional<double> of_peak(const ModelReport& report, const ModelRow& row) {
  if (report.peak_flops <= 0 || row.mode == "decode") return std::nullopt;
  return rate(row) / report.peak_flops;
}
std::optional<double> of_products(const ModelReport& report, const ModelRow& row) {
  const ModelRow* products = products_of(report, row);
  if (!products) return std::nullopt;
  return rate(row) / rate(*products);
}
// Decoding: of the bytes/s of a copy.
std::optional<double> of_bandwidth(const ModelReport& report, const ModelRow& row) {
  if (row.mode != "decode") return std::nullopt;
  return row.bytes / row.time.median / report.ceilings.bytes;
}

std::string percent(const std::optional<double>& share) { return share ? fmt::format("{:.1f}%", 100 * *share) : "-"; }

}  // namespace model_report_file

std::string to_table(const ModelReport& report) {
  using namespace model_report_file;
  const ModelBench& c = report.config;
  std::string out = fmt::format("whole models, {}{} on {}{}{}; ceilings measured now: {:.1f} TFLOP/s, {:.1f} GB/s\n",
                                c10::toString(c.dtype), c.fp8 == ops::Fp8::off ? "" : " with fp8 projections",
                                c.device.str(), report.device_name.empty() ? "" : ", ", report.device_name,
                                report.ceilings.flops / 1e12, report.ceilings.bytes / 1e9);
  if (!c.note.empty()) out += c.note + "\n";
  out += fmt::format("{:<24}{:<10}{:>8}{:>8}{:>12}{:>12}{:>24}{:>7}{:>10}{:>9}{:>9}{:>10}{:>9}{:>7}\n", "model", "mode",
                     "tokens", "batch", "tokens/s", "a step", "lowest to highest", "calls", "TFLOP/s", "of copy",
                     "of peak", "of prod.", "peak GB", "MHz");
  for (const ModelRow& r : report.rows) {
    auto step = [&](double seconds) { return human_time(seconds / r.steps_a_call); };
    out += fmt::format("{:<24}{:<10}{:>8}{:>8}{:>12.5g}{:>12}{:>24}{:>7}{:>10.3g}{:>9}{:>9}{:>10}{:>9}{:>7}\n", r.model,
                       r.mode, r.tokens, r.batch, r.tokens_per_second(), step(r.time.median),
                       step(r.time.low) + " to " + step(r.time.high), r.time.calls, rate(r) / 1e12,
                       percent(of_bandwidth(report, r)), percent(of_peak(report, r)), percent(of_products(report, r)),
                       or_dash(gigabytes(r.peak_bytes), 2), or_dash(r.clock_mhz, 0));
  }
  for (const ModelRow& r : report.rows) {
    if (r.tried.empty()) continue;
    out += fmt::format("{}: up to {} sequences fit; tokens/s in short trials:", r.model, r.largest);
    for (const auto& [batch, speed] : r.tried) out += fmt::format(" {} at {}", static_cast<int64_t>(speed), batch);
    out += "\n";
  }
  return out +
         "\"tokens\": T, or the first position decoded; \"of copy\": weights and state read, against the bandwidth of "
         "a copy;\n\"of peak\": against the device's data sheet; \"of prod.\": FLOP/s against those of the model's "
         "matrix products alone\n";
}

nlohmann::json to_json(const ModelReport& report) {
  using namespace model_report_file;
  const ModelBench& c = report.config;
  nlohmann::json rows = nlohmann::json::array();
  for (const ModelRow& r : report.rows) {
    nlohmann::json& row = rows.emplace_back();
    row = {{"model", r.model},
           {"mode", r.mode},
           {"tokens", r.tokens},
           {"batch", r.batch},
           {"seconds", r.time.median},
           {"seconds_low", r.time.low},
           {"seconds_high", r.time.high},
           {"calls", r.time.calls},
           {"tokens_a_call", r.tokens_a_call},
           {"steps_a_call", r.steps_a_call},
           {"tokens_per_second", r.tokens_per_second()},
           {"flops", r.flops},
           {"bytes", r.bytes},
           {"flops_per_second", rate(r)}};
    if (const auto share = of_bandwidth(report, r)) row["share_of_copy"] = *share;
    if (const auto share = of_peak(report, r)) row["share_of_peak"] = *share;
    if (const auto share = of_products(report, r)) row["share_of_products"] = *share;
    if (r.peak_bytes) row["peak_bytes"] = *r.peak_bytes;
    if (r.clock_mhz) row["clock_mhz"] = *r.clock_mhz;
    if (r.tried.empty()) continue;
    row["largest_batch"] = r.largest;
    for (const auto& [batch, speed] : r.tried) row["tried"].push_back({{"batch", batch}, {"tokens_per_second", speed}});
  }
  return {{"version", version()},
          {"note", c.note},
          {"dtype", c10::toString(c.dtype)},
          {"fp8", c.fp8 != ops::Fp8::off},
          {"cache", c.cache_in_8_bits ? "8bit" : "full"},
          {"device", c.device.str()},
          {"device_name", report.device_name},
          {"from", c.from},
          {"count", c.count},
          {"stride", c.stride},
          {"fill", c.fill},
          {"graph", c.graph},
          {"rows", c.rows},
          {"accumulation", c.accumulation},
          {"updates", c.updates},
          {"checkpointing", c.checkpointing},
          {"peak_flops", report.peak_flops},
          {"ceiling_flops", report.ceilings.flops},
          {"ceiling_bytes", report.ceilings.bytes},
          {"results", rows}};
}

}  // namespace rattan::bench
