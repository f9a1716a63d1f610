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
// Device pointers. Only for what takes_few_rows(): at most `few_rows` rows, x and w of 16-byte units.
bool takes_few_rows(const FewRowsLinear<bf16>& a);
void few_rows_linear(const FewRowsLinear<bf16>& a, void* stream);
// sum += x w^T, which is not rounded in between; a.y is not used.
void add_few_rows_linear(const FewRowsLinear<bf16>& a, const RowsRef<float>& sum, void* stream);
}  // namespace cuda

}  // namespace rattan::kernels
