// A loss that is not yet a mean: micro-batches and ranks are added up before the division.
#pragma once
#include <ATen/core/Tensor.h>

namespace rattan::nn {

struct Loss {
  at::Tensor sum;    // 0-d, differentiable
  at::Tensor count;  // 0-d, what the sum is divided by, once, globally
};

}  // namespace rattan::nn
