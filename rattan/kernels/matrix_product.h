// The product of two matrices, for the projections of training and prefill: C = A B, fp32.
//
//   a [m, k], b [k, n] at any strides (a transposed matrix is one with its strides exchanged), c [m, n] with rows.
// Every element is summed over k in ascending order, whatever m and n are; so a row's result does not depend, bit
// for bit, on the rows beside it or on the number of threads.
// Blocking after Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008).
#pragma once
#include "rattan/kernels/tensor_ref.h"

namespace rattan::kernels {

template <class T>
struct MatrixRef {
  T* data = nullptr;
  int64_t row = 0, column = 0;  // strides in elements
  [[gnu::always_inline]] T* at(int64_t r, int64_t c) const { return data + r * row + c * column; }
};

struct MatrixProduct {
  int64_t m = 0, n = 0, k = 0;
  MatrixRef<const float> a, b;
  RowsRef<float> c;  // every element is written
};

void matrix_product(const MatrixProduct& p);

}  // namespace rattan::kernels
