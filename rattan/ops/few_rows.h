// The products of decoding: few rows, a weight that is read once (kernels/few_rows_linear.h).
#pragma once
#include <ATen/core/Tensor.h>

#include <optional>

#include "rattan/ops/ops.h"

namespace rattan::ops {

// x weight^T as ops::linear gives it, where a FewRowsScope (ops.h) lives on this thread, nothing is differentiated and
// a kernel for few rows takes the tensors: on a processor fp32 and bf16, on CUDA bf16. Nothing elsewhere.
std::optional<at::Tensor> few_rows_linear(const at::Tensor& x, const at::Tensor& weight);

// sum += x weight^T, in place and without rounding the product, under the same conditions; on CUDA alone, sum
// contiguous fp32. Whether it was done.
bool add_few_rows_linear(const at::Tensor& sum, const at::Tensor& x, const at::Tensor& weight);

// x weight^T in fp32, not rounded to x's type, under the same conditions; on CUDA alone.
std::optional<at::Tensor> few_rows_wide_linear(const at::Tensor& x, const at::Tensor& weight);

// x weight^T for the rows that `norm` (ops.h) makes of a stream x, then, if asked, gelu; under the same conditions, on
// CUDA alone.
std::optional<at::Tensor> few_rows_norm_linear(const at::Tensor& x, const NormToCome& norm, const at::Tensor& weight,
                                               bool gelu);

}  // namespace rattan::ops
