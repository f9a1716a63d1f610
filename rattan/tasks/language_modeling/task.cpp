#include "rattan/tasks/language_modeling/task.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "rattan/base/error.h"

namespace rattan::tasks {
namespace language_modeling_task_file {

// What a model and its head are given for one batch.
struct Prepared {
  nn::Layout layout;
  at::Tensor ids, targets;  // int64 [B, T]
};

at::Device device_of(models::Model& model) {
  at::Device device = at::kCPU;
  model.each_param([&](const std::string&, nn::Param& p) { device = p.master().device(); });
  return device;
}

at::Tensor to_tensor(const std::vector<int64_t>& values, int64_t rows, at::Device device) {
  // From pinned memory the copy waits its turn in the stream and the host goes on; without, it would wait for all that
  // the device was given before.
  const auto options = at::TensorOptions().dtype(at::kLong).pinned_memory(device.is_cuda());
  at::Tensor out = at::empty({rows, static_cast<int64_t>(values.size()) / rows}, options);
  std::copy(values.begin(), values.end(), out.data_ptr<int64_t>());
  return out.to(device, /*non_blocking=*/true);
}

// Documents of a packed row are segments; a plain batch has one segment a row.
nn::Layout layout_of(const rattan::Batch& text, bool packed, at::Device device) {
  if (!packed) return nn::Layout::uniform(text.B, text.T, device);
  std::vector<nn::Segment> segments;
  for (const Span& span : text.spans) {
    nn::Segment s;
    s.row = static_cast<int32_t>(span.row);
    s.begin = static_cast<int32_t>(span.begin);
    s.end = static_cast<int32_t>(span.end);
    s.doc = static_cast<int32_t>(segments.size());
    segments.push_back(s);
  }
  return {text.B, text.T, std::move(segments), device};
}

Prepared prepare(const rattan::Batch& text, bool packed, at::Device device) {
  return {layout_of(text, packed, device), to_tensor(text.tokens, text.B, device),
          to_tensor(text.targets, text.B, device)};
}

}  // namespace language_modeling_task_file

LanguageModeling::LanguageModeling(const LanguageDataConfig& config, uint64_t seed)
    : config_(config), train_(config.training(seed)) {
  if (!config.valid_split.empty()) valid_.emplace(config.validation());
  if (valid_) valid_begin_ = valid_->position();
}

std::unique_ptr<train::Batch> LanguageModeling::Text::next() {
  auto text = tokens.next();
  if (!text) return nullptr;
  auto rows = std::make_unique<Rows>();
  rows->rows = text->B;
  rows->tokens = text->T;
  rows->text = std::move(*text);
  return rows;
}

train::Stream& LanguageModeling::stream(train::Split split) {
  if (split == train::Split::train) return train_;
  require(valid_.has_value(), "data.valid_split is empty: there is nothing to validate on");
  return *valid_;
}

void LanguageModeling::step(models::Model& model, train::Batch& batch, train::Stepper& stepper) {
  using namespace language_modeling_task_file;
  const rattan::Batch& text = dynamic_cast<Rows&>(batch).text;
  Prepared in = prepare(text, config_.layout == "documents", device_of(model));
  nn::Sink sink;
  nn::Choices choices;
  nn::Call call{in.layout};
  call.mode = nn::Mode::train;
  call.rng = &stepper.rng();
  call.sink = &sink;
  call.choices = &choices;
  at::Tensor hidden = model.forward({in.ids, {}}, call);
  stepper.backward(model.head().nll(hidden, in.targets, {}, call), sink);
  stepper.step();
}

train::Report LanguageModeling::evaluate(models::Model& model, train::Split) {
  using namespace language_modeling_task_file;
  if (!valid_) return {};
  at::NoGradGuard no_grad;
  double nats = 0, tokens = 0, bytes = 0;
  valid_->restore(valid_begin_);
  for (int64_t i = 0; config_.valid_batches == 0 || i < config_.valid_batches; ++i) {
    auto batch = valid_->tokens.next();
    if (!batch) break;
    Prepared in = prepare(*batch, config_.layout == "documents", device_of(model));
    nn::Call call{in.layout};
    nn::Loss loss = model.head().nll(model.forward({in.ids, {}}, call), in.targets, {}, call);
    nats += loss.sum.item<double>();
    tokens += loss.count.item<double>();
    bytes += batch->original_bytes;
  }
  require(tokens > 0 && bytes > 0, "the split '{}' holds no token to validate on", config_.valid_split);
  double mean = nats / tokens;
  return {{"loss", mean},
          {"perplexity", std::exp(mean)},
          {"bits_per_byte", nats / std::numbers::ln2 / bytes},
          {"tokens", tokens}};
}

}  // namespace rattan::tasks
