// Rows rounded to e4m3, each with a scale of its own, for matrix products in fp8.
//
//   scale[r] = max(max_c |x[r, c]|, 2^-100) / 448;   y[r, c] = e4m3(x[r, c] * (448 / max(max_c |x[r, c]|, 2^-100)))
// so that x[r, c] is about y[r, c] scale[r]: within 2^-4 of itself, or within 2^-10 scale[r] where that is more (below
// 2^-6 scale[r] e4m3 has one spacing). A row of zeros gives zeros. Rounded to nearest even, in fp32 throughout, hence
// the same bits on every device.
// What is not finite shows in every product with the row: a NaN stays NaN and does not count in the maximum; an
// infinity makes the scale infinite and itself NaN.
// x is T (float or bf16) [rows, dim], y e4m3 [rows, dim], scale fp32 [rows].
#pragma once
#include "rattan/base/e4m3.h"
#include "rattan/kernels/tensor_ref.h"

namespace rattan::kernels {

inline constexpr float quantize_rows_least = 0x1p-100f;  // keeps scales and their inverses normal numbers

template <class T>
struct QuantizeRows {
  int64_t rows = 0, dim = 0;
  RowsRef<const T> x;
  RowsRef<e4m3> y;
  float* scale = nullptr;  // [rows]
};

void quantize_rows(const QuantizeRows<float>& a);
void quantize_rows(const QuantizeRows<bf16>& a);

namespace cuda {
void quantize_rows(const QuantizeRows<float>& a, void* stream);
void quantize_rows(const QuantizeRows<bf16>& a, void* stream);
// Whether the device multiplies e4m3 with row scales: compute capability 9.0 and later.
bool has_fp8_products(int device);
}  // namespace cuda

}  // namespace rattan::kernels
