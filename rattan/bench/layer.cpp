#include "rattan/bench/layer.h"

#include <algorithm>
#include <memory>

#include "rattan/base/error.h"
#include "rattan/bench/ceilings.h"
#include "rattan/bench/device.h"
#include "rattan/bench/layer_case.h"
#include "rattan/bench/layer_steps.h"
#include "rattan/bench/products.h"
#include "rattan/nn/mixers/registry.h"

namespace rattan::bench {
namespace layer_file {

// Columns of RAT's input projection.
int64_t projection_width(const LayerBench& c) { return 3 * c.d_model + 2 * c.groups * (c.d_model / c.heads); }

std::unique_ptr<Subject> make_subject(const LayerBench& config, const std::string& name, int64_t seq, int64_t batch,
                                      const std::string& mode) {
  const auto [mixer, fp8] = split_fp8(name);
  if (mixer != "products" && mode == "decode" && LayerSteps::serves(config, name))
    return std::make_unique<LayerSteps>(config, name, seq, batch);
  if (mixer != "products") return std::make_unique<LayerCase>(config, name, seq, batch, mode);
  return std::make_unique<Products>(batch * (mode == "decode" ? 1 : seq), config.d_model, projection_width(config),
                                    mode == "train", config.dtype, config.device, fp8);
}

void check(const LayerBench& c) {
  require(!c.mixers.empty() && !c.seq.empty() && !c.modes.empty(),
          "a benchmark needs at least one mixer, one sequence length and one mode");
  require(c.d_model >= 1 && c.heads >= 1 && c.d_model % c.heads == 0, "d_model {} is not a multiple of {} heads",
          c.d_model, c.heads);
  require(c.groups >= 1 && c.heads % c.groups == 0, "{} heads cannot share {} groups evenly", c.heads, c.groups);
  require(c.batch >= 1 && c.tokens >= 0, "the batch must be at least 1 and tokens at least 0, got {} and {}", c.batch,
          c.tokens);
  for (const std::string& mode : c.modes)
    require(mode == "train" || mode == "prefill" || mode == "decode",
            "'{}' is not a mode of the benchmark: train, prefill and decode are", mode);
  for (int64_t seq : c.seq)
    require(seq >= 1 && seq < (int64_t{1} << 31), "a sequence has at least one token and fewer than 2^31, got {}", seq);
  for (int64_t length : c.documents) require(length >= 1, "a document has at least one token, got {}", length);
  for (const std::string& name : c.mixers) {
    const auto [mixer, fp8] = split_fp8(name);
    if (mixer != "products") mixer_options(name, c);
    require(fp8 == ops::Fp8::off || c.dtype == at::kBFloat16, "'{}' needs bf16 beside it (--dtype bf16)", name);
    ops::require_fp8(fp8, c.device);
    require(c.documents.empty() || mixer != "attention:torch",
            "attention:torch knows no documents within a row; leave it out, or give whole rows (--seq, --batch)");
  }
  require(c.documents.empty() || std::find(c.modes.begin(), c.modes.end(), "decode") == c.modes.end(),
          "documents within a row are for train and prefill; decode takes one sequence a row (--batch)");
  require(c.against.empty() || std::find(c.mixers.begin(), c.mixers.end(), c.against) != c.mixers.end(),
          "the comparison '{}' is not among the mixers that run", c.against);
}

int64_t number_after(const std::string& name, size_t colon) {
  const std::string digits = name.substr(colon + 1);
  require(!digits.empty() && digits.size() < 10 && digits.find_first_not_of("0123456789") == std::string::npos,
          "'{}' is not a mixer of the benchmark: after ':' stands a whole number", name);
  return std::stoll(digits);
}

// Subjects of a group exist side by side; a peak counts what its own subject holds, from its construction on.
void run_group(const LayerBench& config, int64_t seq, int64_t batch, const std::string& mode, LayerReport& report) {
  std::vector<std::unique_ptr<Subject>> subjects;
  std::vector<Candidate> candidates;
  std::vector<std::optional<int64_t>> peaks;
  ClockSampler clock(config.device, config.mixers.size());
  for (const std::string& mixer : config.mixers) {
    const auto before = device_memory(config.device);
    Subject& subject = *subjects.emplace_back(make_subject(config, mixer, seq, batch, mode));
    const size_t i = subjects.size() - 1;
    auto prepare = [&subject, device = config.device] {
      subject.prepare();
      flush_caches(device);
      synchronize(device);
    };
    prepare();
    reset_peak_memory(config.device);
    subject.run();
    if (before) {
      peaks.emplace_back(device_memory(config.device)->peak - before->now);
    } else {
      peaks.emplace_back();
    }
    auto run = [&subject, &clock, i] {
      clock.watch(i);
      subject.run();
      clock.rest();
    };
    candidates.push_back({.run = run, .prepare = prepare, .warm = true});
  }
  const auto times = interleave(candidates, config.budget);
  for (size_t i = 0; i < times.size(); ++i) {
    const int64_t repeats = subjects[i]->repeats();
    const auto n = static_cast<double>(repeats);
    const Timing each{times[i].median / n, times[i].low / n, times[i].high / n, times[i].calls};
    report.rows.push_back({config.mixers[i], mode, seq, batch, each, subjects[i]->flops(), subjects[i]->bytes(),
                           peaks[i], clock.median_mhz(i), repeats});
  }
}

}  // namespace layer_file

std::pair<std::string, ops::Fp8> split_fp8(const std::string& name) {
  const size_t plus = name.find('+');
  if (plus == std::string::npos) return {name, ops::Fp8::off};
  const std::string after = name.substr(plus + 1);
  require(after == "fp8" || after == "fp8_emulated",
          "'{}' is not a mixer of the benchmark: after '+' stands fp8 or fp8_emulated", name);
  return {name.substr(0, plus), after == "fp8" ? ops::Fp8::on : ops::Fp8::emulated};
}

std::vector<std::string> beside_fp8(const std::vector<std::string>& mixers) {
  std::vector<std::string> out;
  for (const std::string& name : mixers) {
    out.push_back(name);
    if (split_fp8(name).second == ops::Fp8::off) out.push_back(name + "+fp8");
  }
  return out;
}

std::string mixer_options(const std::string& full_name, const LayerBench& config) {
  const std::string name = split_fp8(full_name).first;
  const size_t colon = name.find(':');
  const bool with_number = colon != std::string::npos && name != "attention:torch";
  const std::string type = name.substr(0, colon);
  nn::mixer_type(type);
  require(!with_number || type == "rat" || type == "swa",
          "'{}' is not a mixer of the benchmark: only rat:L, swa:W and attention:torch take a ':'", name);
  std::string out = fmt::format("type = '{}'\n", type);
  if (type != "rnn") out += fmt::format("n_heads = {}\n", config.heads);
  if (type == "rat") out += fmt::format("n_groups = {}\n", config.groups);
  if (type == "rat" && with_number) out += fmt::format("chunk = {}\n", layer_file::number_after(name, colon));
  if (type == "swa")
    out += fmt::format("window = {}\n", with_number ? layer_file::number_after(name, colon) : config.window);
  return out;
}

std::string comparison_of(const LayerBench& config) {
  if (!config.against.empty()) return config.against;
  for (const char* name : {"attention:torch", "attention"})
    if (std::find(config.mixers.begin(), config.mixers.end(), name) != config.mixers.end()) return name;
  return config.mixers.back();
}

LayerReport run_layer_bench(const LayerBench& config) {
  layer_file::check(config);
  LayerReport report{.config = config, .device_name = device_name(config.device), .ceilings = {}, .rows = {}};
  auto batch_of = [&](int64_t seq) {
    return config.tokens > 0 ? std::max<int64_t>(1, config.tokens / seq) : config.batch;
  };
  const int64_t most = *std::max_element(config.seq.begin(), config.seq.end());
  report.ceilings = measure_ceilings(batch_of(most) * most, config.d_model, layer_file::projection_width(config),
                                     config.dtype, config.device);
  for (const std::string& mode : config.modes)
    for (int64_t seq : config.seq) layer_file::run_group(config, seq, batch_of(seq), mode, report);
  return report;
}

}  // namespace rattan::bench
