// A causal language model: embedding, a stack of (mixer, feed-forward) blocks, a final norm, an output head.
// Config as DESIGN: [model] and [mixers.<name>] tables.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "rattan/models/model.h"
#include "rattan/nn/block.h"
#include "rattan/nn/linear.h"
#include "rattan/nn/mixers/registry.h"

namespace rattan::models {

struct FfnConfig {
  std::string type = "gelu";  // gelu, swiglu, none
  int64_t hidden = 0;         // 0: 4 d_model
  void fields(Fields& f);
};

struct LanguageModelConfig {
  int64_t vocab_size = 32000, d_model = 512, n_layers = 8;
  std::vector<std::string> pattern = {"rat"};
  FfnConfig ffn;
  bool tie_embeddings = true;
  double norm_eps = 1e-6, dropout = 0, init_std = 0.02;
  int64_t context = 4096;  // the length trained for; longer ones work with a warning
  std::map<std::string, nn::MixerConfig> mixers;

  // The keys of a configuration file: [model] and [mixers.<name>]. InputError for a pattern that names no mixer.
  void fields(Fields& f);
  void validate();
};

class LanguageModel : public Model {
 public:
  explicit LanguageModel(LanguageModelConfig config);  // parameters are not allocated yet
  ~LanguageModel() override;

  at::Tensor forward(const Input& input, nn::Call& call) override;
  at::Tensor extend(const Input& input, nn::State& state, nn::Call& call) override;
  Head& head(const std::string& name = "lm") override;
  nn::StateSpec state_spec() const override;
  double flops_per_token(int64_t tokens) const override;
  std::string settings() const override;

  const LanguageModelConfig& config() const { return config_; }
  nn::Stack& stack() { return stack_; }

 private:
  class LmHead;
  nn::Stream embed(const Input& input) const;
  at::Tensor finish(nn::Stream& stream) const;

  LanguageModelConfig config_;
  nn::Stack stack_;
  nn::Param* embedding_ = nullptr;
  std::unique_ptr<nn::Module> embedding_module_;
  nn::RmsNorm norm_;
  std::unique_ptr<nn::Linear> output_;  // absent when tied
  std::unique_ptr<LmHead> head_;
};

}  // namespace rattan::models
