// Rotary positions for mixers: the fused operator for fp32 and bf16, tensor algebra for float64.
#pragma once
#include <ATen/core/Tensor.h>

namespace rattan::nn {

// x [N, H, p] rotated at int32 positions [N] < `positions`; kernels/rope.h has the formula.
at::Tensor rope(const at::Tensor& x, const at::Tensor& position, int64_t positions, double base);

}  // namespace rattan::nn
