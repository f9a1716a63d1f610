// The product of a few rows with a weight, as in decoding: y = x w^T.
//
//   x [rows, in], w [out, in], y [rows, out]; fp32 or bf16, sums in fp32.
// General matrix products rearrange the weight first, which costs more than the product when there are few rows.
// Here the weight is read once, as it stands. Each element is summed in an order that depends on `in` alone, so a
// row's result is the same, bit for bit, whatever rows stand beside it.
#pragma once
#include "rattan/kernels/tensor_ref.h"

namespace rattan::kernels {

template <class T>
struct FewRowsLinear {
  int64_t rows = 0, in = 0, out = 0;
  RowsRef<const T> x, w;
  RowsRef<T> y;
};

// With more rows than this a general product is faster.
inline constexpr int64_t few_rows = 16;

void few_rows_linear(const FewRowsLinear<float>& a);
void few_rows_linear(const FewRowsLinear<bf16>& a);

namespace cuda {
// How the product begins and ends, beside its plain form.
struct FewRowsEnds {
  // With norm_weight [in]: row r of x is bf16(s / sqrt(mean(s^2) + eps) * norm_weight) of norm_x's row s, and a.x is
  // not used. At most few_rows_norm rows of few_rows_norm_width columns: each block makes them anew, one after another.
  RowsRef<const float> norm_x;
  const float* norm_weight = nullptr;
  float eps = 0;
  bool gelu = false;  // y = bf16(gelu(bf16(x w^T))), gelu(u) = u Phi(u)
  // In place of a.y, for a product that is not rounded: sum += x w^T, or wide = x w^T.
  RowsRef<float> sum, wide;
};
inline constexpr int64_t few_rows_norm = 2, few_rows_norm_width = 2048;

// Device pointers. Only for what takes_few_rows(): at most `few_rows` rows, x (or norm_x and norm_weight) and w of
// 16-byte units.
bool takes_few_rows(const FewRowsLinear<bf16>& a, const FewRowsEnds& ends = {});
void few_rows_linear(const FewRowsLinear<bf16>& a, void* stream, const FewRowsEnds& ends = {});
}  // namespace cuda

}  // namespace rattan::kernels
