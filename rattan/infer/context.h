// Sequences that a model has read: rows of one state, and how to read on.
#pragma once
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "rattan/infer/decode_step.h"
#include "rattan/models/model.h"

namespace rattan::infer {

// Nothing is differentiated on this thread, and operators go straight to their kernels: what the layers above them cost
// the host is more than a short piece of text costs a GPU.
struct Undifferentiated {
  at::NoGradGuard no_grad;
  at::AutoDispatchBelowADInplaceOrView below;
};

// Where a model's parameters are. Error if they were never allocated.
at::Device device_of(models::Model& model);

// The next tokens of a state row that holds `held` already; not empty.
struct Reading {
  int64_t row = 0, held = 0;
  std::span<const int32_t> ids;
};

// Reads on, different rows and any lengths packed into one call of the model. Hidden states [N, D] of the N tokens, in
// their order. What a row holds beyond `held` does not matter.
at::Tensor read_rows(models::Model& model, nn::State& state, std::span<const Reading> readings);

at::Tensor logits_of(models::Model& model, const at::Tensor& h);  // [n, D] -> fp32 [n, V]

// Slots of a step for n sequences. On a GPU a step is recorded for each size, so there sizes are rounded up, by an
// eighth at most where there are many.
int64_t slots_for(int64_t n, at::Device device);

class Context {
 public:
  struct Piece {
    int64_t row = 0;
    std::span<const int32_t> ids;  // the next tokens of that row; not empty
  };

  // `rows` empty sequences with room for `capacity` tokens each; the room grows when it has to. The model must
  // outlive the context, and its weights must not change meanwhile.
  // `record`: steps on a GPU are recorded and replayed (step_graph.h).
  Context(models::Model& model, int64_t rows, int64_t capacity, bool record = false);
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  // Reads the pieces, of different rows and any lengths, in one call of the model, packed one after another.
  // Hidden states [N, D] of the N tokens in the order of the pieces.
  at::Tensor extend(std::span<const Piece> pieces);
  at::Tensor logits(const at::Tensor& h);  // [n, D] -> fp32 [n, V]

  // What follows one more token of each piece, on the device, until the next step overwrites it. The first n rows are
  // those of the pieces.
  struct Next {
    at::Tensor logits;         // fp32 [N, V], N >= n
    at::Tensor ids, logprobs;  // int64 [N], float64 [N]: as asked for with `greedy`; else, or undefined where the
                               // model's mixers take no steps, the choice is the caller's
  };
  // As extend and logits of pieces of one token each, without work for the host from one call to the next while the
  // rows stay the same. greedy > 0: chooses the most probable of that many first ids, the lowest among equals.
  Next step(std::span<const Piece> pieces, int64_t greedy = 0);
  // Nothing will be read from this row again: steps may use it to fill up a batch.
  void release(int64_t row);

  // The sequences become copies of the rows named, in that order.
  void select(const std::vector<int64_t>& rows);

  int64_t length(int64_t row) const { return lengths_[static_cast<std::size_t>(row)]; }
  at::Device device() const { return device_; }

 private:
  void reserve(int64_t tokens);
  DecodeStep& step_of(int64_t slots, int64_t greedy);

  models::Model& model_;
  at::Device device_;
  nn::State state_;
  std::vector<int64_t> lengths_;
  std::vector<bool> released_;
  int64_t capacity_;
  bool serves_steps_, record_;
  std::map<std::pair<int64_t, int64_t>, std::unique_ptr<DecodeStep>> steps_;  // by slots and `greedy`
};

// log p of one target a row, a few hundred rows at a time, so that the logits of long texts never exist together:
// h [n, D], targets int64 [n] -> fp32 [n] on the host.
at::Tensor target_scores(models::Model& model, const at::Tensor& h, const at::Tensor& targets);

// int64 [n] on `device`.
at::Tensor ids_tensor(std::span<const int32_t> ids, at::Device device);

}  // namespace rattan::infer
