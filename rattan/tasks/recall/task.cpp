#include "rattan/tasks/recall/task.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <charconv>
#include <numeric>
#include <vector>

#include "rattan/base/error.h"

namespace rattan::tasks {
namespace recall_task_file {

constexpr int64_t ignored = -100;
constexpr uint64_t valid_streams = uint64_t{1} << 63;  // training draws from the streams below

// `count` distinct numbers below `limit`, in random order.
std::vector<int64_t> draw(int64_t count, int64_t limit, Rng& rng) {
  std::vector<int64_t> all(limit);
  std::iota(all.begin(), all.end(), 0);
  for (int64_t i = 0; i < count; ++i) std::swap(all[i], all[i + static_cast<int64_t>(rng.below(limit - i))]);
  all.resize(count);
  return all;
}

void fill_sequence(const RecallConfig& config, int64_t* ids, int64_t* targets, Rng& rng) {
  const std::vector<int64_t> keys = draw(config.pairs, config.keys, rng);
  const std::vector<int64_t> order = draw(config.pairs, config.pairs, rng);
  std::vector<int64_t> values(config.pairs), gaps(config.asked() + 1, 0);
  for (int64_t& value : values) value = static_cast<int64_t>(rng.below(config.values));
  for (int64_t i = 0; i < config.noise; ++i) ++gaps[rng.below(gaps.size())];
  std::fill(targets, targets + config.tokens(), ignored);
  int64_t at = 0;
  auto put_pair = [&](int64_t pair) {
    ids[at++] = keys[pair];
    ids[at++] = config.keys + values[pair];
  };
  auto put_noise = [&](int64_t count) {
    for (; count > 0; --count)
      ids[at++] = config.keys + config.values + static_cast<int64_t>(rng.below(config.noise_symbols));
  };
  for (int64_t i = 0; i < config.pairs; ++i) put_pair(i);
  for (int64_t i = 0; i < config.asked(); ++i) {
    put_noise(gaps[i]);
    put_pair(order[i]);
    targets[at - 2] = ids[at - 1];
  }
  put_noise(gaps.back());
}

at::Device device_of(models::Model& model) {
  at::Device device = at::kCPU;
  model.each_param([&](const std::string&, nn::Param& p) { device = p.master().device(); });
  return device;
}

}  // namespace recall_task_file

void RecallConfig::fields(Fields& f) {
  f("pairs", pairs, "pairs of a key and a value at the start of a sequence", at_least(1));
  f("queries", queries, "how many of these are asked for afterwards; 0: each one", at_least(0));
  f("noise", noise, "tokens of noise among the questions", at_least(0));
  f("keys", keys, "symbols that keys are drawn from", at_least(1));
  f("values", values, "symbols that values are drawn from", at_least(1));
  f("noise_symbols", noise_symbols, "symbols that noise is drawn from", at_least(1));
  f("batch", batch, "sequences of a batch", at_least(1));
  f("valid_batches", valid_batches, "batches of an evaluation, none of which training sees", at_least(1));
}

Recall::Sequences::Sequences(const RecallConfig& config, train::Split split) : config_(config), split_(split) {}

std::unique_ptr<train::Batch> Recall::Sequences::next() {
  using namespace recall_task_file;
  const bool valid = split_ == train::Split::valid;
  if (valid && made_ == config_.valid_batches) return nullptr;
  Rng rng(config_.seed, static_cast<uint64_t>(made_++) + (valid ? valid_streams : 0));
  auto batch = std::make_unique<RecallBatch>();
  batch->rows = config_.batch;
  batch->tokens = config_.tokens();
  batch->ids = at::empty({batch->rows, batch->tokens}, at::kLong);
  batch->targets = at::empty({batch->rows, batch->tokens}, at::kLong);
  for (int64_t row = 0; row < batch->rows; ++row) {
    const int64_t at = row * batch->tokens;
    fill_sequence(config_, batch->ids.data_ptr<int64_t>() + at, batch->targets.data_ptr<int64_t>() + at, rng);
  }
  return batch;
}

void Recall::Sequences::restore(const std::string& position) {
  const char* end = position.data() + position.size();
  const auto [stopped, error] = std::from_chars(position.data(), end, made_);
  require(error == std::errc{} && stopped == end && made_ >= 0,
          "'{}' is not a position of the task recall: it must be the number of the next batch", position);
}

Recall::Recall(const RecallConfig& config) : train_(config, train::Split::train), valid_(config, train::Split::valid) {
  require(config.pairs > 0 && config.pairs <= config.keys && config.values > 0,
          "recall: {} pairs with distinct keys cannot be drawn from {} keys and {} values", config.pairs, config.keys,
          config.values);
  require(config.queries >= 0 && config.queries <= config.pairs,
          "recall: each of the {} pairs is asked for at most once, so there cannot be {} queries", config.pairs,
          config.queries);
  require(config.noise >= 0 && config.noise_symbols > 0, "recall: {} tokens of noise out of {} symbols cannot be drawn",
          config.noise, config.noise_symbols);
}

train::Stream& Recall::stream(train::Split split) { return split == train::Split::train ? train_ : valid_; }

void Recall::step(models::Model& model, train::Batch& batch, train::Stepper& stepper) {
  const auto& rows = dynamic_cast<RecallBatch&>(batch);
  const at::Device device = recall_task_file::device_of(model);
  const nn::Layout layout = nn::Layout::uniform(rows.rows, rows.tokens, device);
  nn::Sink sink;
  nn::Choices choices;
  nn::Call call{layout};
  call.mode = nn::Mode::train;
  call.rng = &stepper.rng();
  call.sink = &sink;
  call.choices = &choices;
  const at::Tensor hidden = model.forward({rows.ids.to(device), {}}, call);
  stepper.backward(model.head().nll(hidden, rows.targets.to(device), {}, call), sink);
  stepper.step();
}

train::Report Recall::evaluate(models::Model& model, train::Split) {
  at::NoGradGuard no_grad;
  const at::Device device = recall_task_file::device_of(model);
  double nats = 0, right = 0, told = 0;
  valid_.restore("0");
  while (auto batch = valid_.next()) {
    const auto& rows = dynamic_cast<RecallBatch&>(*batch);
    const nn::Layout layout = nn::Layout::uniform(rows.rows, rows.tokens, device);
    const at::Tensor targets = rows.targets.to(device);
    nn::Call call{layout};
    const at::Tensor hidden = model.forward({rows.ids.to(device), {}}, call);
    const nn::Loss loss = model.head().nll(hidden, targets, {}, call);
    nats += loss.sum.item<double>();
    told += loss.count.item<double>();
    right += (model.head().logits(hidden, call).argmax(-1) == targets).sum().item<double>();
  }
  return {{"loss", nats / told}, {"accuracy", right / told}};
}

}  // namespace rattan::tasks
