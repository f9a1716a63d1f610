// Language modeling: predict each token from those before it. The loss is in nats per token; validation also
// gives bits per byte of the original text, which does not depend on the vocabulary.
#pragma once
#include <memory>
#include <optional>

#include "rattan/tasks/language_modeling/data_config.h"
#include "rattan/train/task.h"

namespace rattan::tasks {

class LanguageModeling : public train::Task {
 public:
  // Opens the data. InputError if it is damaged or misses the validation split.
  LanguageModeling(const LanguageDataConfig& config, uint64_t seed);

  std::string name() const override { return "language_modeling"; }
  train::Stream& stream(train::Split split) override;
  void step(models::Model& model, train::Batch& batch, train::Stepper& stepper) override;
  // "loss" (nats per token), "bits_per_byte", "perplexity", "tokens"; empty without a validation split.
  train::Report evaluate(models::Model& model, train::Split split) override;

  const Tokenizer& tokenizer() const { return train_.tokens.tokenizer(); }

 private:
  struct Text : train::Stream {
    explicit Text(const StreamConfig& config) : tokens(config) {}
    std::unique_ptr<train::Batch> next() override;
    std::string position() const override { return tokens.position(); }
    void restore(const std::string& position) override { tokens.restore(position); }
    TokenStream tokens;
  };
  struct Rows : train::Batch {
    rattan::Batch text;
  };

  LanguageDataConfig config_;
  Text train_;
  std::optional<Text> valid_;
  std::string valid_begin_;  // every evaluation starts there
};

}  // namespace rattan::tasks
