// How kernels see tensors: a pointer, strides in elements, no framework. The last dimension is contiguous.
#pragma once
#include <cstdint>

#include "rattan/base/bf16.h"

namespace rattan::kernels {

// [rows, heads, dim] with dim contiguous; `data` may be null where a kernel says "optional".
template <class T>
struct HeadsRef {
  T* data = nullptr;
  int64_t row = 0;   // stride between rows
  int64_t head = 0;  // stride between heads
  [[gnu::always_inline]] T* at(int64_t r, int64_t h) const { return data + r * row + h * head; }
};

// [rows, dim] with dim contiguous.
template <class T>
struct RowsRef {
  T* data = nullptr;
  int64_t row = 0;
  [[gnu::always_inline]] T* at(int64_t r) const { return data + r * row; }
};

}  // namespace rattan::kernels
