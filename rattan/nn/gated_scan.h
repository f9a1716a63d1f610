// The gated recurrence over the segments of a layout, for mixers: the fused operator for fp32 and bf16, tensor
// algebra for float64.
#pragma once
#include <ATen/core/Tensor.h>

#include "rattan/nn/layout.h"
#include "rattan/nn/module.h"

namespace rattan::nn {

struct GatedScan {
  at::Tensor h;      // [N, C] as x: h_t = g_t h_{t-1} + (1 - g_t) x_t with g = sigmoid(gate + bias); 0 on padding
  at::Tensor state;  // [R, C] fp32 (float64 for float64): h after the segments that name a row in `to`
};

// x, gate [N, C] with N the layout's tokens, bias [C]; state [R, C] with the rows that segments start `from`, or
// undefined: zeros. Differentiable.
GatedScan gated_scan(const at::Tensor& x, const at::Tensor& gate, const Param& bias, const Layout& layout,
                     const at::Tensor& state);

}  // namespace rattan::nn
