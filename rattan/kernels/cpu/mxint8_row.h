// One row to 8 bits and back (mxint8.h).
#pragma once
#include <bit>

#include "rattan/kernels/cpu/lanes.h"
#include "rattan/kernels/mxint8.h"

namespace rattan::kernels::RATTAN_ISA {

// The codes of n <= 32 values already rounded to what is stored; returns their exponent.
inline uint8_t encode_block(const float* x, int64_t n, int8_t* code) {
  uint32_t most = 0;
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t size = std::bit_cast<uint32_t>(x[i]) & 0x7fffffffu;
    most = size > most ? size : most;
  }
  const uint32_t top = most >> 23, e = top == 255 ? 255 : top > 6 ? top - 6 : 0;
  if (e == 0 || e == 255) {
    std::memset(code, 0, static_cast<size_t>(n));  // 0 times the infinite scale is NaN
    return static_cast<uint8_t>(e);
  }
  const float inverse = std::bit_cast<float>((254 - e) << 23), shift = 0x1.8p23f;  // its spacing is 1
  for (int64_t i = 0; i < n; ++i) {
    const auto rounded = std::bit_cast<int32_t>(x[i] * inverse + shift) - std::bit_cast<int32_t>(shift);
    code[i] = static_cast<int8_t>(rounded > 127 ? 127 : rounded < -127 ? -127 : rounded);
  }
  return static_cast<uint8_t>(e);
}

template <class T>
inline void encode_row(const T* x, int64_t dim, int8_t* code, uint8_t* exponent) {
  float block[mxint8_block];
  for (int64_t c = 0; c < dim; c += mxint8_block) {
    const int64_t n = dim - c < mxint8_block ? dim - c : mxint8_block;
    for (int64_t i = 0; i < n; ++i) block[i] = to_float(x[c + i]);
    exponent[c / mxint8_block] = encode_block(block, n, code + c);
  }
}

inline void decode_row(const int8_t* code, const uint8_t* exponent, int64_t dim, float* x) {
  static_assert(mxint8_block % W == 0);
  for_lanes(dim, [&](int64_t c, auto part) {
    const Vec scale = splat(std::bit_cast<float>(uint32_t{exponent[c / mxint8_block]} << 23));
    store(x + c, load(code + c, part) * scale, part);
  });
}

// What 8 bits hold of x, which was rounded to what is stored.
inline void round_row(float* x, int64_t dim) {
  int8_t code[mxint8_block];
  uint8_t exponent = 0;
  for (int64_t c = 0; c < dim; c += mxint8_block) {
    const int64_t n = dim - c < mxint8_block ? dim - c : mxint8_block;
    exponent = encode_block(x + c, n, code);
    decode_row(code, &exponent, n, x + c);
  }
}

}  // namespace rattan::kernels::RATTAN_ISA
