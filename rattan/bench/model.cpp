#include "rattan/bench/model.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <functional>
#include <memory>

#include "rattan/base/error.h"
#include "rattan/bench/ceilings.h"
#include "rattan/bench/device.h"
#include "rattan/bench/largest_batch.h"
#include "rattan/bench/model_case.h"

namespace rattan::bench {
namespace model_file {

constexpr int64_t trial_steps = 32;

void check(const ModelBench& c) {
  require(!c.models.empty() && !c.modes.empty(), "a benchmark needs at least one model and one mode");
  for (const std::string& mode : c.modes)
    require(mode == "train" || mode == "prefill" || mode == "decode",
            "'{}' is not a mode of the benchmark: decode, prefill and train are", mode);
  require(c.from >= 0 && c.count >= 1 && c.stride >= 1 && c.from + c.count < (int64_t{1} << 31),
          "decoding needs a first position of at least 0, at least 1 position after it and a stride of at least 1, got "
          "{}, {} and {}",
          c.from, c.count, c.stride);
  require(c.fill == "random" || c.fill == "computed", "'{}' is no content of a state: random and computed are", c.fill);
  require(c.fp8 == ops::Fp8::off || c.dtype == at::kBFloat16, "fp8 needs bf16 beside it");
  ops::require_fp8(c.fp8, c.device);
  require(c.rows >= 1 && c.accumulation >= 1 && c.updates >= 1,
          "rows, accumulation and updates must be at least 1, got {}, {} and {}", c.rows, c.accumulation, c.updates);
  for (int64_t seq : c.seq)
    require(seq >= 1 && seq < (int64_t{1} << 31), "a sequence has at least one token and fewer than 2^31, got {}", seq);
  for (int64_t batch : c.batch) {
    require(batch >= 0, "a batch has at least one sequence, got {}", batch);
    require(batch > 0 || c.device.is_cuda(),
            "the best batch is found by filling a GPU's memory; on {} say how many sequences (--batch)",
            c.device.str());
  }
}

// One subject: how it is built, and the row it fills in.
struct Turn {
  std::function<std::unique_ptr<ModelCase>()> make;
  ModelRow row;
};

// Only the subject whose turn it is exists.
class Stage {
 public:
  explicit Stage(const ModelBench& config) : device_(config.device) {}

  ModelCase& enter(const Turn& turn) {
    subject_.reset();
    release_cached_memory(device_);
    before_ = device_memory(device_).value_or(DeviceMemory{}).now;
    reset_peak_memory(device_);
    subject_ = turn.make();
    subject_->prepare();
    return *subject_;
  }
  void leave() { subject_.reset(), release_cached_memory(device_); }
  ModelCase& subject() { return *subject_; }
  std::optional<int64_t> peak() const {
    const auto memory = device_memory(device_);
    return memory ? std::optional(memory->peak - before_) : std::nullopt;
  }

 private:
  at::Device device_;
  std::unique_ptr<ModelCase> subject_;
  int64_t before_ = 0;
};

void run_group(std::vector<Turn> turns, ModelReport& report) {
  Stage stage(report.config);
  ClockSampler clock(report.config.device, turns.size());
  std::vector<Candidate> candidates;
  for (size_t i = 0; i < turns.size(); ++i) {
    auto prepare = [&stage, &turn = turns[i]] { stage.enter(turn); };
    auto run = [&stage, &clock, &turn = turns[i], i] {
      clock.watch(i);
      stage.subject().run();
      clock.rest();
      turn.row.peak_bytes = stage.peak();
    };
    candidates.push_back({.run = run, .prepare = prepare, .warm = true});  // prepare warms up
  }
  const auto times = interleave(candidates, report.config.budget);
  stage.leave();
  for (size_t i = 0; i < turns.size(); ++i) {
    ModelRow& row = turns[i].row;
    const auto counted = turns[i].make();
    row.time = times[i], row.tokens_a_call = counted->tokens(), row.steps_a_call = counted->steps();
    row.flops = counted->flops(), row.bytes = counted->bytes(), row.clock_mhz = clock.median_mhz(i);
    report.rows.push_back(std::move(row));
  }
}

Turn decoding(const ModelBench& config, const NamedModel& model, int64_t batch, int64_t stride) {
  return {.make = [&config, &model, batch,
                   stride] { return std::make_unique<DecodeCase>(config, model.config, batch, stride); },
          .row = {.model = model.name, .mode = "decode", .batch = batch, .tokens = config.from, .time = {}}};
}

bool is_out_of_memory(const std::exception& e) {
  return dynamic_cast<const c10::OutOfMemoryError*>(&e) != nullptr ||
         std::string(e.what()).find("out of memory") != std::string::npos;
}

// The batch with the most tokens a second, by short trials of a few sizes up to the largest that fits.
Turn best_decoding(const ModelBench& config, const NamedModel& model) {
  Stage stage(config);
  // Whether there was memory for it.
  auto there_is_room = [&](const std::function<void()>& run) {
    bool room = true;
    try {
      run();
    } catch (const std::exception& e) {
      room = false;
      if (!is_out_of_memory(e)) throw;
    }
    stage.leave();
    return room;
  };
  auto fits = [&](int64_t batch) {
    return there_is_room([&] { stage.enter(decoding(config, model, batch, config.count)); });
  };
  const int64_t each = spec_of(config, model.config).bytes(config.from + config.count, config.dtype);
  const int64_t most = total_memory(config.device) / std::max<int64_t>(1, each);
  const int64_t largest = largest_batch(most, batch_grain(most), fits);
  require(largest > 0, "{}: not even one sequence of {} tokens fits the device's memory", model.name,
          config.from + config.count);
  std::vector<std::pair<int64_t, double>> tried;
  const int64_t stride = std::max<int64_t>(1, config.count / trial_steps);
  for (int64_t batch : batches_to_try(largest)) {
    const Turn turn = decoding(config, model, batch, stride);
    // The largest that holds its state may lack the room to run.
    there_is_room([&] {
      const auto time =
          interleave({{.run = [&] { stage.subject().run(); }, .prepare = [&] { stage.enter(turn); }, .warm = true}},
                     {.seconds = 0, .min_rounds = 1, .max_rounds = 1});
      tried.emplace_back(batch, turn.make()->tokens() / time[0].median);
    });
  }
  require(!tried.empty(), "{}: a batch of {} fits the device's memory, but neither it nor smaller ones could be run",
          model.name, largest);
  const auto best =
      std::max_element(tried.begin(), tried.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  Turn turn = decoding(config, model, best->first, config.stride);
  turn.row.largest = largest, turn.row.tried = std::move(tried);
  return turn;
}

std::vector<Turn> long_calls(const ModelBench& config, const std::string& mode, int64_t seq) {
  std::vector<Turn> turns;
  auto add = [&]<class Case>(const NamedModel& model, const std::string& row_mode, Case*) {
    turns.push_back({.make = [&config, &model, seq] { return std::make_unique<Case>(config, model.config, seq); },
                     .row = {.model = model.name, .mode = row_mode, .batch = config.rows, .tokens = seq, .time = {}}});
  };
  for (const NamedModel& model : config.models) {
    if (mode == "prefill") {
      add(model, mode, static_cast<PrefillCase*>(nullptr));
    } else {
      add(model, mode, static_cast<TrainCase*>(nullptr));
      add(model, "products", static_cast<ModelProducts*>(nullptr));
    }
  }
  return turns;
}

// bf16 matrix products without sparsity, by the makers' data sheets.
double known_peak(const std::string& device) {
  const bool hopper = device.find("H100") != std::string::npos || device.find("H200") != std::string::npos;
  return hopper ? 989.4e12 : 0;
}

}  // namespace model_file

ModelReport run_model_bench(const ModelBench& config) {
  using namespace model_file;
  check(config);
  ModelReport report{.config = config, .device_name = device_name(config.device), .ceilings = {}, .rows = {}};
  report.peak_flops = config.peak_flops.value_or(known_peak(report.device_name));
  const auto& first = config.models.front().config;
  const int64_t tokens = config.rows * *std::max_element(config.seq.begin(), config.seq.end());
  report.ceilings = measure_ceilings(tokens, first.d_model, 4 * first.d_model, config.dtype, config.device);
  for (const std::string& mode : config.modes) {
    if (mode != "decode") {
      for (int64_t seq : config.seq) run_group(long_calls(config, mode, seq), report);
      continue;
    }
    for (int64_t batch : config.batch) {
      std::vector<Turn> turns;
      for (const NamedModel& model : config.models)
        turns.push_back(batch > 0 ? decoding(config, model, batch, config.stride) : best_decoding(config, model));
      run_group(std::move(turns), report);
    }
  }
  return report;
}

}  // namespace rattan::bench
