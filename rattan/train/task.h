// What the trainer trains. A task owns its data, its loss and its metrics; the trainer owns parameters,
// optimizer, schedule and checkpoints, and knows nothing of language.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "rattan/models/model.h"
#include "rattan/nn/loss.h"
#include "rattan/nn/sink.h"

namespace rattan::train {

enum class Split : int8_t { train, valid };

// A batch owns its shape: rows and tokens may differ from one to the next.
struct Batch {
  virtual ~Batch() = default;
  int64_t rows = 0, tokens = 0;  // B, T
};

// An endless (training) or finite (validation) sequence of batches with an exact position.
class Stream {
 public:
  virtual ~Stream() = default;
  virtual std::unique_ptr<Batch> next() = 0;  // nullptr: the end of a finite stream
  virtual std::string position() const = 0;   // where the batch that comes next starts
  virtual void restore(const std::string& position) = 0;
};

// What a task does to the parameters. Most tasks call backward once and step once a batch.
class Stepper {
 public:
  virtual ~Stepper() = default;
  // Adds the gradient of loss.sum and of the sink's weighted losses; sums are divided by their global counts
  // (over micro-batches and ranks) when the step is made.
  virtual void backward(const nn::Loss& loss, const nn::Sink& sink) = 0;
  // Ends a micro-batch; every `accumulation`-th call reduces, clips, updates, runs on_step and clears gradients.
  virtual void step() = 0;
  virtual Rng& rng() = 0;  // for dropout and the like; its position is part of the checkpoint
};

using Report = std::map<std::string, double>;  // metric -> value; "loss" in nats per counted unit

class Task {
 public:
  virtual ~Task() = default;
  virtual std::string name() const = 0;
  virtual Stream& stream(Split split) = 0;
  virtual void step(models::Model& model, Batch& batch, Stepper& stepper) = 0;
  virtual Report evaluate(models::Model& model, Split split) = 0;
  // State carried from batch to batch (truncated backpropagation); saved with the checkpoint. nullptr: none.
  virtual nn::State* carried() { return nullptr; }
};

}  // namespace rattan::train
