// Associative recall: `pairs` pairs (key, value), then the same pairs in another order; the value after each key
// of the second half is to be told. All are drawn afresh for each sequence, the keys of a sequence without
// repetition, so only the sequence itself can give the answer. Loss and accuracy are those of the second half's values.
#pragma once
#include <memory>
#include <string>

#include "rattan/train/task.h"

namespace rattan::tasks {

struct RecallConfig {
  int64_t pairs = 16;              // a sequence holds 4 * pairs tokens
  int64_t keys = 32, values = 32;  // symbols: keys are the ids below `keys`, values those that follow
  int64_t batch = 64;
  int64_t valid_batches = 8;
  uint64_t seed = 1;

  int64_t vocabulary() const { return keys + values; }
  int64_t tokens() const { return 4 * pairs; }
};

class Recall : public train::Task {
 public:
  // InputError where there are fewer keys than pairs, or no value.
  explicit Recall(const RecallConfig& config);

  std::string name() const override { return "recall"; }
  train::Stream& stream(train::Split split) override;
  void step(models::Model& model, train::Batch& batch, train::Stepper& stepper) override;
  // "loss" (nats per value told) and "accuracy", on sequences that training never draws.
  train::Report evaluate(models::Model& model, train::Split split) override;

 private:
  // Batch number n of a stream depends on (seed, split, n) alone.
  class Sequences : public train::Stream {
   public:
    Sequences(const RecallConfig& config, train::Split split);
    std::unique_ptr<train::Batch> next() override;
    std::string position() const override { return std::to_string(made_); }
    void restore(const std::string& position) override;

   private:
    RecallConfig config_;
    train::Split split_;
    int64_t made_ = 0;
  };

  Sequences train_, valid_;
};

}  // namespace rattan::tasks
