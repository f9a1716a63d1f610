// Sequences that a model has read: rows of one state, and how to read on.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "rattan/models/model.h"

namespace rattan::infer {

// Where a model's parameters are. Error if they were never allocated.
at::Device device_of(models::Model& model);

class Context {
 public:
  struct Piece {
    int64_t row = 0;
    std::span<const int32_t> ids;  // the next tokens of that row; not empty
  };

  // `rows` empty sequences with room for `capacity` tokens each; the room grows when it has to. The model must
  // outlive the context.
  Context(models::Model& model, int64_t rows, int64_t capacity);

  // Reads the pieces, of different rows and any lengths, in one call of the model, packed one after another.
  // Hidden states [N, D] of the N tokens in the order of the pieces.
  at::Tensor extend(std::span<const Piece> pieces);
  at::Tensor logits(const at::Tensor& h);  // [n, D] -> fp32 [n, V]

  // The sequences become copies of the rows named, in that order.
  void select(const std::vector<int64_t>& rows);

  int64_t length(int64_t row) const { return lengths_[static_cast<std::size_t>(row)]; }
  at::Device device() const { return device_; }

 private:
  void reserve(int64_t tokens);

  models::Model& model_;
  at::Device device_;
  nn::State state_;
  std::vector<int64_t> lengths_;
  int64_t capacity_;
};

// log p of one target a row, a few hundred rows at a time, so that the logits of long texts never exist together:
// h [n, D], targets int64 [n] -> fp32 [n] on the host.
at::Tensor target_scores(models::Model& model, const at::Tensor& h, const at::Tensor& targets);

// int64 [n] on `device`.
at::Tensor ids_tensor(std::span<const int32_t> ids, at::Device device);

}  // namespace rattan::infer
