#include "rattan/models/language_model.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/scalar_tensor.h>

#include <nlohmann/json.hpp>

#include "rattan/base/config_json.h"
#include "rattan/base/error.h"
#include "rattan/nn/ffn.h"
#include "rattan/ops/ops.h"

namespace rattan::models {
namespace language_model_file {

class Embedding : public nn::Module {
 public:
  Embedding(int64_t vocabulary, int64_t dim, double std)
      : weight(param("weight", {vocabulary, dim}, nn::Init::normal(std))) {}
  nn::Param& weight;
};

}  // namespace language_model_file

class LanguageModel::LmHead : public Head {
 public:
  explicit LmHead(const nn::Param& weight) : weight_(weight) {}

  at::Tensor logits(const at::Tensor& h, nn::Call&) override { return ops::wide_linear(h, weight_(h.scalar_type())); }

  nn::Loss nll(const at::Tensor& h, const at::Tensor& y, const at::Tensor& weight, nn::Call& call) override {
    const at::Tensor rows = h.flatten(0, 1), target = y.flatten(), w = weight.defined() ? weight.flatten() : weight;
    const at::Tensor counted = target >= 0;
    at::Tensor count = w.defined() ? (w * counted.to(w.scalar_type())).sum() : counted.sum().to(at::kFloat);
    if (h.scalar_type() != at::kDouble)
      return {ops::linear_cross_entropy(rows, weight_(h.scalar_type()), target, w), count};
    // Every target below 0 is left out, not one value alone.
    const at::Tensor each =
        at::cross_entropy_loss(logits(rows, call), target.clamp_min(0), {}, at::Reduction::None) * counted;
    return {(w.defined() ? each * w : each).sum(), count};
  }

  at::Tensor score(const at::Tensor& h, const at::Tensor& candidates, nn::Call& call) override {
    return at::log_softmax(logits(h, call), -1).gather(-1, candidates);
  }

 private:
  const nn::Param& weight_;
};

LanguageModel::LanguageModel(LanguageModelConfig config)
    : config_(std::move(config)), stack_(&compute), norm_(config_.d_model, config_.norm_eps) {
  config_.validate();
  auto embedding =
      std::make_unique<language_model_file::Embedding>(config_.vocab_size, config_.d_model, config_.init_std);
  embedding_ = &embedding->weight;
  embedding_module_ = std::move(embedding);
  const nn::MixerContext context{config_.d_model, config_.init_std, config_.norm_eps};
  const int64_t hidden = config_.ffn.hidden > 0 ? config_.ffn.hidden : 4 * config_.d_model;
  auto branch = [&](std::unique_ptr<nn::Mixer> fn) {
    return nn::Branch{nn::Place::pre, std::make_unique<nn::RmsNorm>(config_.d_model, config_.norm_eps), std::move(fn),
                      std::make_unique<nn::AddResidual>(), config_.dropout};
  };
  for (int64_t i = 0; i < config_.n_layers; ++i) {
    nn::Block& block = stack_.add_block();
    const std::string& name = config_.pattern[i % config_.pattern.size()];
    block.add("mixer", branch(config_.mixers.at(name).make(context)));
    if (config_.ffn.type != "none") block.add("ffn", branch(nn::make_ffn(config_.ffn.type, hidden, context)));
  }
  child("embed", *embedding_module_);
  child("", stack_);
  child("norm", norm_);
  if (!config_.tie_embeddings) {
    output_ = std::make_unique<nn::Linear>(config_.d_model, config_.vocab_size, config_.init_std);
    child("lm_head", *output_);
  }
  head_ = std::make_unique<LmHead>(output_ ? output_->weight() : *embedding_);
}

LanguageModel::~LanguageModel() = default;

nn::Stream LanguageModel::embed(const Input& input) const {
  const auto residual = compute == at::kDouble ? at::kDouble : at::kFloat;
  return {at::embedding((*embedding_)(residual), input.ids), {}, {}, true};
}

at::Tensor LanguageModel::finish(nn::Stream& stream) const { return norm_.join(stream, compute); }

at::Tensor LanguageModel::forward(const Input& input, nn::Call& call) {
  nn::Stream stream = embed(input);
  stack_.forward(stream, call);
  return finish(stream);
}

at::Tensor LanguageModel::extend(const Input& input, nn::State& state, nn::Call& call) {
  at::NoGradGuard no_grad;
  nn::Stream stream = embed(input);
  stack_.extend(stream, state, call);
  return finish(stream);
}

Head& LanguageModel::head(const std::string& name) {
  require(name == "lm", "a language model has the head 'lm', not '{}'", name);
  return *head_;
}

nn::StateSpec LanguageModel::state_spec() const {
  const nn::StateSpec spec = stack_.state_spec();
  return cache_in_8_bits ? spec.in_8_bits() : spec;
}

double LanguageModel::flops_per_token(int64_t tokens) const {
  return stack_.flops_per_token(tokens) + 2.0 * static_cast<double>(config_.vocab_size * config_.d_model);
}

std::string LanguageModel::settings() const {
  LanguageModelConfig config = config_;
  return to_json([&](Fields& f) { config.fields(f); }).dump();
}

nn::Source Model::encode(const Input&, nn::Call&) { fail_input("this model has no encoder"); }

}  // namespace rattan::models
