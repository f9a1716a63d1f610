// Matrix products in fp8: both factors rounded to e4m3, each row with its own scale (kernels/quantize_rows.h).
// A product's row then depends on its own row alone, as in bf16: on no other token, and not on how a text is split.
#pragma once
#include <ATen/core/Tensor.h>

namespace rattan::ops {

enum class Fp8 : int8_t {
  off,
  on,        // multiplied by tensor cores: compute capability 9.0 and later
  emulated,  // the same factors multiplied in fp32: any device, slow; for tests and to see what the rounding does
};

struct Fp8Rows {
  at::Tensor values;  // e4m3 [N, D]
  at::Tensor scale;   // fp32 [N]
};

// InputError where the device cannot do it.
void require_fp8(Fp8 fp8, at::Device device);

// x [N, D] in fp32 or bf16, rows at any stride. Not differentiable.
Fp8Rows quantize_rows(const at::Tensor& x);

// a b^T, [M, D] and [N, D] -> [M, N] in bf16, summed in fp32 or, on tensor cores, as product_choice.h says. D and N
// are multiples of 16. Not differentiable.
at::Tensor fp8_product(const Fp8Rows& a, const Fp8Rows& b, Fp8 fp8);

// x weight^T, [..., in] and [out, in] -> [..., out], all bf16; in and out are multiples of 16. Differentiable once:
//   y = Q(x) Q(weight)^T;   dx = Q(dy) Q(weight^T)^T;   d_weight = dy^T x, in bf16,
// where Q rounds the rows of its argument and the gradient is passed through it. The sum of d_weight runs over tokens,
// which row scales are no common factor of; scales that are, one a channel over all tokens, would let the largest
// token decide what is left of the others, and would cost another pass over x and dy.
// `weight_rows`: Q(weight), where it is at hand; undefined tensors otherwise.
at::Tensor fp8_linear(const at::Tensor& x, const at::Tensor& weight, Fp8 fp8, const Fp8Rows& weight_rows = {});

}  // namespace rattan::ops
