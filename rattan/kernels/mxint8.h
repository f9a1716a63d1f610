// Rows of a cache in 8 bits: MXINT8 of the OCP Microscaling Formats (version 1.0), 32 numbers to a shared power of two.
//
//   x[c] = code[c] 2^(e - 127),  code in [-127, 127],  e the exponent of block c / 32;  e = 0: the block is 0
// With m the largest |x| of a block, e - 127 = floor(log2 m) - 6: codes up to 127, rounded to nearest even, those that
// round to 128 becoming 127. So each number is within 2^-6 m of itself (half a step, or one where a code was cut).
// Blocks with m < 2^-120 become 0. A NaN or an infinity makes its whole block NaN (e = 255).
//
// A power of two has two consequences. What the 8 bits stand for is exact in bf16, so whoever reads them, a kernel that
// multiplies by the scale or one that was given bf16 rows, sees the same numbers; and rounding what was rounded before
// changes nothing. A vector of p channels takes p + ceil(p / 32) bytes, 52 % of bf16.
// What is stored of x in a type T was first rounded to T.
#pragma once
#include <type_traits>

#include "rattan/kernels/tensor_ref.h"

namespace rattan::kernels {

inline constexpr int64_t mxint8_block = 32;
[[gnu::always_inline]] inline constexpr int64_t mxint8_blocks(int64_t dim) {
  return (dim + mxint8_block - 1) / mxint8_block;
}

// [rows, heads, dim] codes and [rows, heads, mxint8_blocks(dim)] exponents. Code: int8_t, or const int8_t.
template <class Code>
struct Mxint8Heads {
  using Exponent = std::conditional_t<std::is_const_v<Code>, const uint8_t, uint8_t>;
  HeadsRef<Code> code;
  HeadsRef<Exponent> exponent;
  [[gnu::always_inline]] explicit operator bool() const { return code.data != nullptr; }
};
[[gnu::always_inline]] inline Mxint8Heads<const int8_t> read_only(const Mxint8Heads<int8_t>& x) {
  return {{x.code.data, x.code.row, x.code.head}, {x.exponent.data, x.exponent.row, x.exponent.head}};
}

// Row to[i] of y becomes row from[i] of x, for i < rows.
template <class T>
struct Mxint8Store {
  int64_t rows = 0, heads = 0, dim = 0;
  const int64_t* from = nullptr;  // [rows], optional: row i
  const int64_t* to = nullptr;    // [rows]
  HeadsRef<const T> x;
  Mxint8Heads<int8_t> y;
};

// Row i of y becomes row from[i] of x.
template <class T>
struct Mxint8Load {
  int64_t rows = 0, heads = 0, dim = 0;
  const int64_t* from = nullptr;  // [rows]
  Mxint8Heads<const int8_t> x;
  HeadsRef<T> y;
};

// The rows of x named by at[i * stride] become what 8 bits would hold of them.
template <class T>
struct Mxint8Round {
  int64_t rows = 0, heads = 0, dim = 0;
  const int32_t* at = nullptr;  // optional: row i
  int64_t stride = 1;
  HeadsRef<T> x;
};

void mxint8_store(const Mxint8Store<float>& a);
void mxint8_store(const Mxint8Store<bf16>& a);
void mxint8_load(const Mxint8Load<float>& a);
void mxint8_load(const Mxint8Load<bf16>& a);
void mxint8_round(const Mxint8Round<float>& a);
void mxint8_round(const Mxint8Round<bf16>& a);

namespace cuda {
// Device pointers; `stream` is a cudaStream_t.
void mxint8_store(const Mxint8Store<float>& a, void* stream);
void mxint8_store(const Mxint8Store<bf16>& a, void* stream);
void mxint8_load(const Mxint8Load<float>& a, void* stream);
void mxint8_load(const Mxint8Load<bf16>& a, void* stream);
void mxint8_round(const Mxint8Round<float>& a, void* stream);
void mxint8_round(const Mxint8Round<bf16>& a, void* stream);
}  // namespace cuda

}  // namespace rattan::kernels
