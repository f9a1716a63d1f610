// float8_e4m3fn as kernels see it: sign, 4 bits of exponent (bias 7), 3 of significand; 448 is the largest value,
// 2^-6 the smallest normal one, 2^-9 the smallest of all; no infinity. (Micikevicius et al., arXiv 2209.05433)
#pragma once
#include <bit>
#include <cstdint>

namespace rattan {

struct e4m3 {
  uint8_t bits;
};

inline constexpr float e4m3_most = 448;

// Rounds to nearest even; what is larger than 448, infinities too, becomes 448; NaN becomes the NaN 0x7f.
[[gnu::always_inline]] inline e4m3 to_e4m3(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x), sign = bits >> 24 & 0x80, size = bits & 0x7fffffffu;
  const uint32_t most = std::bit_cast<uint32_t>(e4m3_most);
  const uint32_t bounded = size < most ? size : most;
  // The 20 bits that a normal value loses; the exponent's bias changes from 127 to 7.
  const uint32_t normal = ((bounded + 0x7ffff + (bounded >> 20 & 1)) >> 20) - (120u << 3);
  // Below 2^-6 the spacing is 2^-9, that of fp32 at 2^14: the sum is rounded there.
  const uint32_t small = std::bit_cast<uint32_t>(std::bit_cast<float>(bounded) + 0x1p14f) & 0xf;
  const uint32_t code = sign | (bounded < 0x3c800000u ? small : normal);
  return {static_cast<uint8_t>(size > 0x7f800000u ? 0x7f : code)};
}

[[gnu::always_inline]] inline float to_float(e4m3 x) {
  const uint32_t sign = uint32_t{x.bits} << 24 & 0x80000000u, size = x.bits & 0x7fu;
  const float small = static_cast<float>(size) * 0x1p-9f;
  const uint32_t normal = size < 8 ? std::bit_cast<uint32_t>(small) : (size + (120u << 3)) << 20;
  const uint32_t code = size == 0x7f ? 0x7fc00000u : normal;
  return std::bit_cast<float>(sign | code);
}

}  // namespace rattan
