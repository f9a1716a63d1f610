// The most probable choice of each row: index[r] = the least i with x[r, i] = max_j x[r, j].
//
//   x [rows, dim], dim >= 1; fp32 or bf16. NaN is never chosen; 0 where there is nothing else.
#pragma once
#include "rattan/kernels/tensor_ref.h"

namespace rattan::kernels {

template <class T>
struct Argmax {
  int64_t rows = 0, dim = 0;
  RowsRef<const T> x;
  int64_t* index = nullptr;
};

namespace cuda {
// Device pointers.
void argmax(const Argmax<float>& a, void* stream);
void argmax(const Argmax<bf16>& a, void* stream);
}  // namespace cuda

}  // namespace rattan::kernels
