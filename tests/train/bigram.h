// The smallest model and task there are: a table of next-token logits, on a seeded random text. For tests of the
// trainer that need no kernel.
#pragma once
#include <ATen/ops/embedding.h>
#include <ATen/ops/full.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/tensor.h>

#include <limits>
#include <optional>
#include <vector>

#include "rattan/base/error.h"
#include "rattan/train/fit.h"

namespace rattan::train::bigram {

constexpr int64_t kVocab = 11;

class Model : public models::Model, public models::Head {
 public:
  explicit Model(uint64_t seed) {
    table_ = &param("table.weight", {kVocab, kVocab}, nn::Init::normal(0.5));
    bias_ = &param("bias", {kVocab}, nn::Init::normal(0.5));
    initialize(seed);
  }
  at::Tensor forward(const models::Input& input, nn::Call& call) override {
    if (aux && call.sink) {
      at::Tensor t = (*table_)(at::kFloat);
      call.sink->loss("size", {t.mul(t).sum(), at::full({}, 2.0 * static_cast<double>(input.ids.numel()))});
      call.sink->metric("largest", t.detach().max());
    }
    return at::embedding((*table_)(at::kFloat), input.ids).add((*bias_)(at::kFloat));
  }
  at::Tensor extend(const models::Input&, nn::State&, nn::Call&) override { fail("not used"); }
  models::Head& head(const std::string&) override { return *this; }
  nn::StateSpec state_spec() const override { return {}; }
  double flops_per_token(int64_t) const override { return 2.0 * kVocab; }

  at::Tensor logits(const at::Tensor& h, nn::Call&) override { return h; }
  nn::Loss nll(const at::Tensor& h, const at::Tensor& y, const at::Tensor&, nn::Call&) override {
    at::Tensor picked = at::log_softmax(h, -1).gather(-1, y.unsqueeze(-1));
    return {picked.sum().neg(), at::full({}, static_cast<double>(y.numel()))};
  }
  at::Tensor score(const at::Tensor&, const at::Tensor&, nn::Call&) override { fail("not used"); }

  nn::Param& table() { return *table_; }
  nn::Param& bias() { return *bias_; }
  bool aux = false;

 private:
  nn::Param* table_;
  nn::Param* bias_;
};

struct Text : Batch {
  std::vector<int64_t> ids;  // rows x (tokens + 1)
};

// Row lengths differ from batch to batch, so that means over micro-batches differ from means of means.
class Source : public Stream {
 public:
  std::unique_ptr<Batch> next() override {
    if (limit && made_ >= *limit) return nullptr;
    Rng rng(7, static_cast<uint64_t>(made_++));
    auto text = std::make_unique<Text>();
    text->rows = 2;
    text->tokens = 3 + static_cast<int64_t>(rng.below(6));
    int64_t token = 0;
    for (int64_t i = 0; i < text->rows * (text->tokens + 1); ++i) {
      token = rng.below(4) == 0 ? static_cast<int64_t>(rng.below(kVocab)) : (3 * token + 1) % kVocab;
      text->ids.push_back(token);
    }
    return text;
  }
  std::string position() const override { return std::to_string(made_); }
  void restore(const std::string& position) override { made_ = std::stoll(position); }
  std::optional<int64_t> limit;

 private:
  int64_t made_ = 0;
};

class Task : public train::Task {
 public:
  std::string name() const override { return "bigram"; }
  Source& stream(Split) override { return source; }
  void step(models::Model& model, Batch& batch, Stepper& stepper) override {
    nn::Sink sink;
    nn::Loss loss = loss_of(model, dynamic_cast<Text&>(batch), &sink);
    if (poison && ++batches_ == *poison) loss.sum = loss.sum.mul(std::numeric_limits<float>::infinity());
    stepper.rng().next_u64();  // as dropout would
    stepper.backward(loss, sink);
    for (int i = 0; i < steps_per_batch; ++i) {
      if (i > 0) stepper.backward(loss_of(model, dynamic_cast<Text&>(batch), &sink), {});
      stepper.step();
    }
  }
  Report evaluate(models::Model& model, Split) override {
    ++evaluations;
    Source fresh;
    auto batch = fresh.next();
    nn::Loss loss = loss_of(model, dynamic_cast<Text&>(*batch), nullptr);
    return {{"loss", loss.sum.item<double>() / loss.count.item<double>()}};
  }
  static nn::Loss loss_of(models::Model& model, const Text& text, nn::Sink* sink) {
    at::Tensor all = at::tensor(text.ids).view({text.rows, text.tokens + 1});
    nn::Layout layout = nn::Layout::uniform(text.rows, text.tokens);
    nn::Call call{layout};
    call.mode = nn::Mode::train;
    call.sink = sink;
    at::Tensor h = model.forward({all.narrow(1, 0, text.tokens), {}}, call);
    return model.head().nll(h, all.narrow(1, 1, text.tokens), {}, call);
  }

  Source source;
  std::optional<int64_t> poison;  // the number of the batch whose loss is made infinite
  int steps_per_batch = 1;
  int evaluations = 0;

 private:
  int64_t batches_ = 0;
};

inline FitConfig config(int64_t steps) {
  FitConfig c;
  c.steps = steps;
  c.lr = 0.05;
  c.precision = "fp32";
  return c;
}

}  // namespace rattan::train::bigram
