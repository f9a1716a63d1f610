// The residual stream between the branches of a stack.
#pragma once
#include <ATen/core/Tensor.h>

namespace rattan::nn {

// In fp32 (float64 for float64). The last branch is either not yet added, so that the next norm adds it in the same
// pass, or it added itself, as its last product was made. At most one of `pending` and `added` is defined.
struct Stream {
  at::Tensor x{};        // [B, T, D]
  at::Tensor pending{};  // [B, T, D] in the computing type: still to be added
  at::Tensor added{};    // in training, stands for a branch that x contains: holds nothing, takes its gradient
  bool owned = false;    // nobody else holds x's values, so they may be overwritten

  at::Tensor& resolve();  // x with everything added
};

}  // namespace rattan::nn
