// AdamW over the masters of a module (formula: fit.h).
#pragma once
#include <string>
#include <vector>

#include "rattan/train/fit.h"

namespace rattan::train {

class AdamW {
 public:
  // Takes every trainable parameter once. Its moments live in state.optimizer; missing ones start at 0.
  // InputError if a moment has another shape, is missing in part, or belongs to no parameter.
  AdamW(nn::Module& module, const FitConfig& config, FitState& state);

  // The Euclidean norm over all gradients, a float64 scalar where they are; a missing gradient counts as 0.
  at::Tensor grad_norm() const;

  // One update, number `step` >= 1, with the gradients divided by `divisor`. A missing gradient reads as 0. On a GPU
  // it moves 32 bytes a parameter: master, gradient and two moments read and written back, the gradient divided.
  void update(int64_t step, double lr, double divisor);
  void clear_gradients();

  std::vector<nn::Param*> params() const;

 private:
  struct Entry {
    nn::Param* param;
    at::Tensor mean, square;  // the moments
  };
  // Parameters that share weight decay and learning-rate scale, updated by one call.
  struct Group {
    double weight_decay, lr_scale;
    std::vector<Entry> entries;
    at::Tensor steps;  // the step count, as the fused operator wants it
  };
  Group& group(const FitConfig& config, const nn::Param& param);

  double beta1_, beta2_, eps_;
  std::vector<Group> groups_;
};

// The Euclidean norm over all tensors, summed in float64: a scalar on their device, without waiting for it; on a GPU
// one pass over them. On a CPU each tensor is cut into blocks of fixed size, so the value does not depend on the number
// of threads.
at::Tensor global_norm(const std::vector<at::Tensor>& tensors);

}  // namespace rattan::train
