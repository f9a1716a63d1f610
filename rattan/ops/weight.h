// A matrix of parameters as products take it: its value in the computing type and, in training on a GPU in bf16, the
// fp32 leaf behind it. The product that makes the weight's gradient then makes it in fp32 and, from the second
// micro-batch on, adds it to the leaf's gradient itself: no rounding to bf16, and neither a cast nor an addition in
// passes of their own.
#pragma once
#include <ATen/core/Tensor.h>

namespace rattan::ops {

struct Weight {
  at::Tensor value;   // [out, in]; differentiable if there is no master
  at::Tensor master;  // fp32 [out, in], the leaf whose gradient backward makes; or undefined
};

// Whether a leaf's gradient may be made that way.
bool takes_gradient_directly(const at::Tensor& master, at::ScalarType compute);

// The master's gradient d_y^T x, for d_y [N, out] and x [N, in] in bf16: added in place to the gradient that it has
// (then undefined comes back), else as a new fp32 tensor.
at::Tensor weight_gradient(const at::Tensor& master, const at::Tensor& d_y, const at::Tensor& x);

// x value^T, [..., in] -> [..., out], where the weight has a master. Differentiable, once.
at::Tensor linear_of_master(const at::Tensor& x, const Weight& weight);

}  // namespace rattan::ops
