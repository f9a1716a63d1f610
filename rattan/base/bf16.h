// bfloat16 as kernels see it: the upper half of a float, rounded to nearest even. NaN stays NaN.
#pragma once
#include <bit>
#include <cstdint>

namespace rattan {

struct bf16 {
  uint16_t bits;
};

[[gnu::always_inline]] inline float to_float(bf16 x) { return std::bit_cast<float>(uint32_t{x.bits} << 16); }
[[gnu::always_inline]] inline float to_float(float x) { return x; }

[[gnu::always_inline]] inline bf16 to_bf16(float x) {
  uint32_t u = std::bit_cast<uint32_t>(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((u >> 16) | 0x40)};
  return {static_cast<uint16_t>((u + 0x7fff + ((u >> 16) & 1)) >> 16)};
}

enum class ScalarType : int8_t { f32, bf16, f64 };

}  // namespace rattan
