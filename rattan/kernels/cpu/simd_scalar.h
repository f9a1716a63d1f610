// Four lanes of portable C++ (the compiler's own vectors), for any processor; see simd.h.
#pragma once
#include <cstdint>
#include <cstring>

#include "rattan/base/bf16.h"

namespace rattan::kernels::RATTAN_ISA {

constexpr int W = 4;
typedef float Lanes __attribute__((vector_size(16)));
typedef int32_t IntLanes __attribute__((vector_size(16)));
struct Vec {
  Lanes v;
};
struct Mask {
  IntLanes m;
};

inline Vec zero() { return {Lanes{0, 0, 0, 0}}; }
inline Vec splat(float x) { return {Lanes{x, x, x, x}}; }
inline float first(Vec a) { return a.v[0]; }
inline Mask first_lanes(int64_t n) { return {IntLanes{-(n > 0), -(n > 1), -(n > 2), -(n > 3)}}; }

inline Vec operator+(Vec a, Vec b) { return {a.v + b.v}; }
inline Vec operator-(Vec a, Vec b) { return {a.v - b.v}; }
inline Vec operator*(Vec a, Vec b) { return {a.v * b.v}; }
inline Vec operator/(Vec a, Vec b) { return {a.v / b.v}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {a.v * b.v + c.v}; }
inline Vec fnma(Vec a, Vec b, Vec c) { return {c.v - a.v * b.v}; }

inline Mask operator<(Vec a, Vec b) { return {a.v < b.v}; }
inline Mask operator>(Vec a, Vec b) { return {a.v > b.v}; }
inline Mask operator==(Vec a, Vec b) { return {a.v == b.v}; }
inline bool any(Mask m) { return (m.m[0] | m.m[1] | m.m[2] | m.m[3]) != 0; }
inline Vec select(Mask m, Vec a, Vec b) { return {(Lanes)((m.m & (IntLanes)a.v) | (~m.m & (IntLanes)b.v))}; }

inline Vec max(Vec a, Vec b) { return select(a > b, a, b); }  // b if either is NaN
inline Vec min(Vec a, Vec b) { return select(a < b, a, b); }
inline Vec abs(Vec a) { return {(Lanes)((IntLanes)a.v & 0x7fffffff)}; }
inline Vec sqrt(Vec a) {
  for (int i = 0; i < W; ++i) a.v[i] = __builtin_sqrtf(a.v[i]);
  return a;
}
inline Vec round(Vec a) {
  for (int i = 0; i < W; ++i) a.v[i] = __builtin_rintf(a.v[i]);
  return a;
}
// In two steps, so that 2^128 and denormal results are reached. NaN passes through `a`.
inline Vec scale_by_power(Vec a, Vec n) {
  IntLanes whole{};
  for (int i = 0; i < W; ++i) whole[i] = n.v[i] == n.v[i] ? static_cast<int32_t>(n.v[i]) : 0;
  IntLanes half = whole >> 1, rest = whole - half;
  return {a.v * (Lanes)((half + 127) << 23) * (Lanes)((rest + 127) << 23)};
}
inline float sum(Vec a) { return (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]); }
inline float hmax(Vec a) {
  float x = a.v[0] > a.v[2] ? a.v[0] : a.v[2], y = a.v[1] > a.v[3] ? a.v[1] : a.v[3];
  return x > y ? x : y;
}

inline Vec load(const float* p) {
  Vec a;
  std::memcpy(&a.v, p, sizeof a.v);
  return a;
}
inline void store(float* p, Vec a) { std::memcpy(p, &a.v, sizeof a.v); }
inline Vec load_n(const float* p, int64_t n) {
  Vec a = zero();
  for (int64_t i = 0; i < n; ++i) a.v[i] = p[i];
  return a;
}
inline void store_n(float* p, Vec a, int64_t n) {
  for (int64_t i = 0; i < n; ++i) p[i] = a.v[i];
}
inline Vec load_n(const int8_t* p, int64_t n) {
  Vec a = zero();
  for (int64_t i = 0; i < n; ++i) a.v[i] = p[i];
  return a;
}
inline Vec load(const int8_t* p) { return load_n(p, W); }
inline Vec load_n(const bf16* p, int64_t n) {
  Vec a = zero();
  for (int64_t i = 0; i < n; ++i) a.v[i] = to_float(p[i]);
  return a;
}
inline void store_n(bf16* p, Vec a, int64_t n) {
  for (int64_t i = 0; i < n; ++i) p[i] = to_bf16(a.v[i]);
}
inline Vec load(const bf16* p) { return load_n(p, W); }
inline void store(bf16* p, Vec a) { store_n(p, a, W); }

// out[c][r] = in[r][c] for a W x W block; strides in elements.
inline void transpose_block(const float* in, int64_t in_row, float* out, int64_t out_row) {
  for (int r = 0; r < W; ++r) {
    for (int c = 0; c < W; ++c) out[c * out_row + r] = in[r * in_row + c];
  }
}

}  // namespace rattan::kernels::RATTAN_ISA
