// One further token of each of n sequences, again and again, with nothing for the host to do between two tokens:
// where each sequence stands lives on the device and advances there, the next token can be chosen there, and on a GPU
// the whole step is one recorded graph (step_graph.h). Everybody who decodes uses it: the generator, benchmarks, and
// whoever serves sequences that come and go.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "rattan/infer/step_graph.h"
#include "rattan/kernels/token_draw.h"
#include "rattan/models/model.h"

namespace rattan::infer {

// What one place of the batch works on. An idle slot goes through the motions on an empty sequence, in a state row that
// holds nothing and that only idle slots share: entry 0 of that row is overwritten.
struct Slot {
  int64_t row = 0;       // of the state; no two sequences share one
  int64_t position = 0;  // of the token: how many the sequence holds already
  int32_t id = 0;        // the token
  int64_t follows = -1;  // not negative: the token is this entry of `chosen`, which the host need not know yet
  bool idle = false;
};

struct DecodeStepConfig {
  int64_t limit = 0;   // positions are below this: the state's capacity
  int64_t choose = 0;  // choose among the first `choose` ids; 0: do not choose
  bool draws = true;   // by rules, with log-probabilities; else the most probable alone, the lowest id among equals
  bool graph = true;   // on a GPU: record and replay
  int64_t stride = 1;  // by how much positions advance (a benchmark visits a range at intervals)
};

class DecodeStep {
 public:
  // Every mixer of the model takes layouts of steps, and the model computes in a type that has kernels.
  static bool serves(models::Model& model);

  // The model, its weights and the state's tensors must outlive the step and stay where they are.
  DecodeStep(models::Model& model, nn::State& state, int64_t slots, const DecodeStepConfig& config);

  // Says what each slot works on; `slots` of them. `chosen`: int64 on the device, for slots that follow. InputError for
  // rows or positions that do not fit the state.
  void place(std::span<const Slot> slots, const at::Tensor& chosen = {});
  // The next tokens, instead of those that the last step chose.
  void feed(std::span<const int32_t> ids);
  // By which rules the next runs draw, one a slot; the most probable tokens until then.
  void rule(std::span<const kernels::DrawRule> rules);

  // Reads one token of every slot. Where tokens are chosen they are the next ones. InputError if a slot has reached
  // the limit; then nothing was done.
  void run();

  // Of the last run, on the device, overwritten by the next one.
  const at::Tensor& logits() const { return logits_; }      // fp32 [n, V]
  const at::Tensor& chosen() const { return ids_; }         // int64 [n]
  const at::Tensor& logprobs() const { return logprobs_; }  // float64 [n], under all of the first `choose` ids

  int64_t size() const { return static_cast<int64_t>(slots_.size()); }
  const std::vector<Slot>& slots() const { return slots_; }  // with the positions that come next; ids as placed or fed

 private:
  void compute();

  models::Model& model_;
  nn::State& state_;
  DecodeStepConfig config_;
  std::vector<Slot> slots_;
  at::Tensor rows_, positions_, advance_;  // int32 [n]
  at::Tensor ids_, logits_, logprobs_, rules_;
  std::vector<kernels::DrawRule> host_rules_;  // what rules_ holds
  StepGraph graph_;
};

}  // namespace rattan::infer
