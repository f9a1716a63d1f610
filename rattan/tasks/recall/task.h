// Associative recall: `pairs` pairs (key, value), then some or all of them in another order; the value after each key
// of this second part is to be told. All are drawn afresh for each sequence, the keys of a sequence without
// repetition, so only the sequence itself can give the answer. Loss and accuracy are those of the second part's values.
// With `noise`, so many tokens of other symbols stand between the questions, each in a gap drawn for itself: the
// multi-query recall of Arora et al. (Zoology, 2023), with uniform gaps and with the answers left in the sequence.
#pragma once
#include <memory>
#include <string>

#include "rattan/base/fields.h"
#include "rattan/train/task.h"

namespace rattan::tasks {

struct RecallConfig {
  int64_t pairs = 16;
  int64_t queries = 0;             // how many of the pairs are asked for; 0: all
  int64_t noise = 0;               // tokens of noise among the questions
  int64_t keys = 32, values = 32;  // symbols: keys are the ids below `keys`, values those that follow
  int64_t noise_symbols = 32;      // then those of the noise, where there is any
  int64_t batch = 64;
  int64_t valid_batches = 8;
  uint64_t seed = 1;

  void fields(Fields& f);  // all but the seed
  int64_t asked() const { return queries == 0 ? pairs : queries; }
  int64_t vocabulary() const { return keys + values + (noise > 0 ? noise_symbols : 0); }
  int64_t tokens() const { return 2 * pairs + 2 * asked() + noise; }
};

struct RecallBatch : train::Batch {
  at::Tensor ids, targets;  // int64 [rows, tokens]; targets are negative where nothing is asked
};

class Recall : public train::Task {
 public:
  // InputError where there are fewer keys than pairs, fewer pairs than queries, or no value.
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
