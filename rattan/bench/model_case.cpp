#include "rattan/bench/model_case.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/randint.h>

#include <algorithm>

#include "rattan/bench/device.h"
#include "rattan/bench/fill.h"
#include "rattan/models/load.h"
#include "rattan/nn/linear.h"
#include "rattan/ops/ops.h"

namespace rattan::bench {
namespace model_case_file {

// Without memory: to count with.
double flops_per_token(const models::LanguageModelConfig& config, int64_t tokens) {
  return models::LanguageModel(config).flops_per_token(tokens);
}

// Weights that a step reads: all but an embedding that is not the output matrix, too.
double weight_bytes(const models::LanguageModelConfig& config, const ModelBench& bench) {
  models::LanguageModel model(config);
  double total = 0;
  model.each_param([&](const std::string& name, nn::Param& p) {
    const bool embeds = name.starts_with("embed."), in_stack = !embeds && !name.starts_with("lm_head.");
    if (embeds && !config.tie_embeddings) return;
    auto bytes = static_cast<double>(c10::elementSize(p.shape().size() < 2 ? at::kFloat : bench.dtype));
    if (bench.fp8 != ops::Fp8::off && in_stack && p.shape().size() >= 2) bytes = 1;
    total += static_cast<double>(p.numel()) * bytes;
  });
  return total;
}

at::Tensor random_ids(const models::LanguageModelConfig& config, int64_t rows, int64_t tokens, at::Device device) {
  return at::randint(config.vocab_size, {rows, tokens}, at::TensorOptions().dtype(at::kLong).device(device));
}

}  // namespace model_case_file

nn::StateSpec spec_of(const ModelBench& config, const models::LanguageModelConfig& model) {
  models::LanguageModel counted(model);
  counted.cache_in_8_bits = config.cache_in_8_bits;
  return counted.state_spec();
}

DecodeCase::DecodeCase(const ModelBench& config, const models::LanguageModelConfig& model, int64_t batch,
                       int64_t stride)
    : config_(config), model_config_(model), batch_(batch), stride_(stride) {
  for (int64_t p = config.from; p < config.from + config.count; p += stride) positions_.push_back(p);
}

// The warm-up is the first two steps: one as it is, one that is recorded.
void DecodeCase::prepare() {
  const int64_t limit = config_.from + config_.count;
  model_ = random_model(model_config_, config_.dtype, config_.device, false, config_.fp8);
  model_->cache_in_8_bits = config_.cache_in_8_bits;
  state_ = nn::make_state(model_->state_spec(), batch_, limit, config_.dtype, config_.device);
  config_.fill == "computed" ? fill_computed(state_, *model_, config_.from) : fill_random(state_);
  step_.emplace(*model_, state_, batch_,
                infer::DecodeStepConfig{.limit = limit,
                                        .choose = model_config_.vocab_size,
                                        .draws = false,
                                        .graph = config_.graph,
                                        .stride = stride_});
  std::vector<infer::Slot> slots;
  for (int64_t row = 0; row < batch_; ++row)
    slots.push_back({.row = row, .position = config_.from, .id = static_cast<int32_t>(row % model_config_.vocab_size)});
  for (int i = 0; i < 2; ++i) {
    step_->place(slots);
    step_->run();
  }
  step_->place(slots);
  synchronize(config_.device);
}

void DecodeCase::run() {
  for (size_t i = 0; i < positions_.size(); ++i) step_->run();
  synchronize(config_.device);
}

// A token attends to its whole length, twice the mean that prefill pays.
double DecodeCase::flops() const {
  const models::LanguageModel counted(model_config_);
  const double first = counted.flops_per_token(1);
  double total = 0;
  for (int64_t p : positions_) total += 2 * counted.flops_per_token(p + 1) - first;
  return total * static_cast<double>(batch_);
}

double DecodeCase::bytes() const {
  const nn::StateSpec spec = spec_of(config_, model_config_);
  double state = 0;
  for (int64_t p : positions_) state += static_cast<double>(spec.bytes(p + 1, config_.dtype));
  return state * static_cast<double>(batch_) +
         model_case_file::weight_bytes(model_config_, config_) * static_cast<double>(positions_.size());
}

PrefillCase::PrefillCase(const ModelBench& config, const models::LanguageModelConfig& model, int64_t seq)
    : config_(config), model_config_(model), seq_(seq) {}

void PrefillCase::prepare() {
  model_ = random_model(model_config_, config_.dtype, config_.device, false, config_.fp8);
  model_->cache_in_8_bits = config_.cache_in_8_bits;
  state_ = nn::make_state(model_->state_spec(), config_.rows, seq_, config_.dtype, config_.device);
  ids_ = model_case_file::random_ids(model_config_, config_.rows, seq_, config_.device);
  run();
  synchronize(config_.device);
}

// Entries of the first call are written again before they are read.
void PrefillCase::run() {
  at::NoGradGuard no_grad;
  std::vector<nn::Segment> segments;
  for (int32_t row = 0; row < config_.rows; ++row)
    segments.push_back({.row = row, .end = static_cast<int32_t>(seq_), .doc = row, .from = -1, .to = row});
  const nn::Layout layout(config_.rows, seq_, std::move(segments), config_.device);
  nn::Call call{layout};
  const at::Tensor h = model_->extend({ids_, {}}, state_, call);
  model_->head().logits(h.select(1, seq_ - 1), call);
  synchronize(config_.device);
}

double PrefillCase::flops() const {
  const double head = 2.0 * static_cast<double>(model_config_.vocab_size * model_config_.d_model);
  return (model_case_file::flops_per_token(model_config_, seq_) - head) * tokens() +
         head * static_cast<double>(config_.rows);
}

double PrefillCase::bytes() const {
  const nn::StateSpec spec = spec_of(config_, model_config_);
  return model_case_file::weight_bytes(model_config_, config_) +
         static_cast<double>(spec.bytes(seq_, config_.dtype) * config_.rows);
}

TrainCase::TrainCase(const ModelBench& config, const models::LanguageModelConfig& model, int64_t seq)
    : config_(config), model_config_(model), seq_(seq) {
  fit_.precision = config.fp8 == ops::Fp8::on         ? "fp8"
                   : config.fp8 == ops::Fp8::emulated ? "fp8_emulated"
                                                      : models::name_of(config.dtype);
  fit_.accumulation = config.accumulation;
  fit_.checkpointing = config.checkpointing;
}

// The first step makes what later ones have: moments, handles, the allocator's blocks.
void TrainCase::prepare() {
  model_ = random_model(model_config_, config_.dtype, config_.device, true);
  train::prepare(*model_, fit_);
  stepper_.emplace(*model_, fit_, state_);
  for (at::Tensor* t : {&ids_, &targets_}) {
    *t = at::empty({config_.rows, seq_}, at::TensorOptions().dtype(at::kLong).pinned_memory(config_.device.is_cuda()));
    t->random_(model_config_.vocab_size);
  }
  update();
  synchronize(config_.device);
}

void TrainCase::run() {
  for (int64_t i = 0; i < config_.updates; ++i) update();
  synchronize(config_.device);
}

// As a task does it (tasks/language_modeling).
void TrainCase::update() {
  for (int64_t i = 0; i < config_.accumulation; ++i) {
    const nn::Layout layout = nn::Layout::uniform(config_.rows, seq_, config_.device);
    const at::Tensor ids = ids_.to(config_.device, true), targets = targets_.to(config_.device, true);
    nn::Sink sink;
    nn::Choices choices;
    nn::Call call{layout};
    call.mode = nn::Mode::train;
    call.rng = &stepper_->rng();
    call.sink = &sink;
    call.choices = &choices;
    const at::Tensor hidden = model_->forward({ids, {}}, call);
    stepper_->backward(model_->head().nll(hidden, targets, {}, call), sink);
    stepper_->step();
  }
  stepper_->take_reports();
}

double TrainCase::flops() const { return 3 * model_case_file::flops_per_token(model_config_, seq_) * tokens(); }

double TrainCase::bytes() const { return model_case_file::weight_bytes(model_config_, config_); }

ModelProducts::ModelProducts(const ModelBench& config, const models::LanguageModelConfig& model, int64_t seq)
    : config_(config), rows_(config.rows * seq) {
  models::LanguageModel counted(model);
  counted.each_module([&](nn::Module& module) {
    const auto* linear = dynamic_cast<const nn::Linear*>(&module);
    if (linear) shapes_.emplace_back(linear->weight().shape()[0], linear->weight().shape()[1]);
  });
  if (model.tie_embeddings) shapes_.emplace_back(model.vocab_size, model.d_model);
}

void ModelProducts::prepare() {
  const auto options = at::TensorOptions().dtype(config_.dtype).device(config_.device);
  // The output matrix is multiplied in blocks of rows, as the loss does it: all logits at once could be too many.
  constexpr int64_t most_elements = int64_t{1} << 28;
  std::vector<std::pair<int64_t, int64_t>> known;
  products_.clear(), order_.clear();
  for (const auto& shape : shapes_) {
    const auto place = std::find(known.begin(), known.end(), shape);
    order_.push_back(static_cast<size_t>(place - known.begin()));
    if (place != known.end()) continue;
    known.push_back(shape);
    const auto [out, in] = shape;
    const int64_t rows = std::clamp<int64_t>(most_elements / std::max(out, in), 1, rows_);
    auto random = [&](int64_t n, int64_t m) { return at::empty({n, m}, options).normal_(); };
    products_.push_back({random(rows, in), random(out, in), random(rows, out)});
  }
  run();
}

void ModelProducts::run() {
  at::NoGradGuard no_grad;
  for (size_t i : order_) {
    const Product& p = products_[i];
    for (int64_t from = 0; from < rows_; from += p.x.size(0)) {
      const int64_t n = std::min(p.x.size(0), rows_ - from);
      const at::Tensor x = p.x.narrow(0, 0, n), d_y = p.d_y.narrow(0, 0, n);
      ops::linear(x, p.w), ops::product(d_y, p.w), ops::product(d_y.t(), x);
    }
  }
  synchronize(config_.device);
}

double ModelProducts::flops() const {
  double total = 0;
  for (const auto& [out, in] : shapes_) total += 6.0 * static_cast<double>(out) * static_cast<double>(in);
  return total * static_cast<double>(rows_);
}

double ModelProducts::bytes() const {
  double total = 0;
  for (const auto& [out, in] : shapes_) total += static_cast<double>(out * in);
  return total * static_cast<double>(c10::elementSize(config_.dtype));
}

}  // namespace rattan::bench
