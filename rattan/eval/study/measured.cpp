#include "rattan/eval/study/measured.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "rattan/base/error.h"
#include "rattan/base/files.h"
#include "rattan/data/dataset.h"
#include "rattan/eval/study/metric.h"
#include "rattan/train/metrics.h"

namespace rattan::study {
namespace measured_file {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr const char* kFile = "result.json";
constexpr const char* kFormat = "rattan-study-run";
constexpr int64_t kBatchTokens = 16384;  // of windows that are read together

json evaluation_json(const Evaluation& how) {
  return {{"position_factor", how.position_factor}, {"position_tokens", how.position_tokens}};
}

Measured from_json(const json& document) {
  Measured out;
  out.lr = document.at("lr");
  if (document.contains("diverged")) {
    out.diverged = document.at("diverged").get<int64_t>();
    return out;
  }
  out.steps = document.at("steps");
  out.tokens = document.at("tokens");
  out.tokens_per_second = document.at("tokens_per_second");
  out.report = document.at("validation").get<train::Report>();
  for (const json& point : document.at("curve"))
    out.curve.emplace_back(point.at("step").get<int64_t>(), point.at("validation").get<train::Report>());
  for (const json& range : document.at("by_position"))
    out.by_position.push_back({range.at("from"), range.at("to"), range.at("tokens"), range.at("loss")});
  return out;
}

// Windows of several documents have the same ranges; a shorter last one leaves its later ranges out.
void add(std::vector<infer::PositionLoss>& sums, const std::vector<infer::PositionLoss>& more) {
  for (const infer::PositionLoss& range : more) {
    auto at = std::find_if(sums.begin(), sums.end(), [&](const auto& sum) { return sum.from == range.from; });
    if (at == sums.end()) at = sums.insert(sums.end(), {range.from, range.to, 0, 0.0});
    at->loss += range.loss * static_cast<double>(range.tokens);
    at->tokens += range.tokens;
  }
}

}  // namespace measured_file

std::optional<double> Measured::metric(const std::string& name) const {
  if (name == "lr") return lr;
  if (diverged) return std::nullopt;
  if (name == "tokens_per_second") return tokens_per_second;
  if (const auto n = at_length(name, "loss")) {
    for (const infer::PositionLoss& range : by_position)
      if (range.to == *n) return range.loss;
    return std::nullopt;
  }
  const auto found = report.find(name);
  return found == report.end() ? std::nullopt : std::optional(found->second);
}

void save(const Measured& measured, const Evaluation& how, const std::filesystem::path& run_folder) {
  using namespace measured_file;
  json document = {{"format", kFormat}, {"version", 1}, {"lr", measured.lr}, {"evaluation", evaluation_json(how)}};
  if (measured.diverged) {
    document["diverged"] = *measured.diverged;
  } else {
    json curve = json::array(), positions = json::array();
    for (const auto& [step, report] : measured.curve) curve.push_back({{"step", step}, {"validation", report}});
    for (const infer::PositionLoss& range : measured.by_position)
      positions.push_back({{"from", range.from}, {"to", range.to}, {"tokens", range.tokens}, {"loss", range.loss}});
    document.update({{"steps", measured.steps},
                     {"tokens", measured.tokens},
                     {"tokens_per_second", measured.tokens_per_second},
                     {"validation", measured.report},
                     {"curve", std::move(curve)},
                     {"by_position", std::move(positions)}});
  }
  write_file(run_folder / kFile, document.dump(2) + "\n");
}

std::optional<Measured> load(const Evaluation& how, const std::filesystem::path& run_folder) {
  using namespace measured_file;
  const fs::path path = run_folder / kFile;
  std::error_code none;
  if (!fs::exists(path, none)) return std::nullopt;
  const json document = json::parse(read_file(path), nullptr, false);
  try {
    if (document.is_discarded() || document.at("format") != kFormat || document.at("version") != 1)
      fail_input("{}: not the result of a study's run; remove it, and the run is measured again", path.string());
    Measured out = from_json(document);
    if (!out.diverged && document.at("evaluation") != evaluation_json(how)) return std::nullopt;
    return out;
  } catch (const json::exception& error) {
    fail_input("{}: damaged ({}); remove it, and the run is measured again", path.string(), error.what());
  }
}

std::vector<infer::PositionLoss> loss_by_position(models::Model& model, const tasks::LanguageDataConfig& data,
                                                  const Evaluation& how, const std::function<void()>& between_batches) {
  using namespace measured_file;
  infer::PerplexityConfig windows;
  windows.context = windows.stride = how.position_factor * data.seq_len;
  windows.batch_tokens = std::max(kBatchTokens, windows.context);
  std::vector<infer::PositionLoss> out;
  int64_t left = how.position_tokens == 0 ? std::numeric_limits<int64_t>::max() : how.position_tokens;
  for (const StreamSource& source : data.sources) {
    const Dataset texts(source.path, data.valid_split);
    for (int64_t i = 0; i < texts.documents() && left > 1; ++i) {
      const Document document = texts.document(i);
      const int64_t tokens = std::min(document.end - document.begin, left);
      if (tokens < 2) continue;
      left -= tokens;
      std::vector<int64_t> ids(static_cast<std::size_t>(tokens));
      texts.read(document.begin, ids);
      const std::vector<int32_t> narrow(ids.begin(), ids.end());
      add(out, infer::perplexity(model, narrow, windows, [&](int64_t, int64_t) { between_batches(); }).by_position);
    }
  }
  for (infer::PositionLoss& range : out) range.loss /= static_cast<double>(range.tokens);
  std::sort(out.begin(), out.end(), [](const auto& a, const auto& b) { return a.from < b.from; });
  return out;
}

void read_log(const std::filesystem::path& run_folder, Measured& measured) {
  std::vector<double> speeds;
  const std::string prefix = "valid_";
  for (const auto& line : train::read_metrics(run_folder / "metrics.jsonl")) {
    train::Report report;
    for (const auto& [key, value] : line.items())
      if (key.starts_with(prefix) && value.is_number()) report[key.substr(prefix.size())] = value.get<double>();
    const auto step = line.at("step").get<int64_t>();
    // A run that was finished and is looked at again validates once more.
    if (!report.empty() && (measured.curve.empty() || measured.curve.back().first < step))
      measured.curve.emplace_back(step, report);
    if (const auto speed = line.find("tokens_per_second"); speed != line.end() && speed->is_number())
      speeds.push_back(speed->get<double>());
  }
  if (speeds.empty()) return;
  const auto middle = speeds.begin() + static_cast<std::ptrdiff_t>(speeds.size() / 2);
  std::nth_element(speeds.begin(), middle, speeds.end());
  measured.tokens_per_second = *middle;
}

}  // namespace rattan::study
