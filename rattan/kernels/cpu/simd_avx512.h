// AVX-512 (F, BW, DQ, VL) with or without the bf16 instructions; see simd.h.
#pragma once
#include <immintrin.h>

#include <cstdint>

#include "rattan/base/bf16.h"

namespace rattan::kernels::RATTAN_ISA {

constexpr int W = 16;
struct Vec {
  __m512 v;
};
struct Mask {
  __mmask16 m;
};

inline Vec zero() { return {_mm512_setzero_ps()}; }
inline Vec splat(float x) { return {_mm512_set1_ps(x)}; }
inline float first(Vec a) { return _mm512_cvtss_f32(a.v); }
inline Mask first_lanes(int64_t n) { return {static_cast<__mmask16>((1u << n) - 1)}; }

inline Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline Vec fnma(Vec a, Vec b, Vec c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }
inline Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }  // b if either is NaN
inline Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
inline Vec abs(Vec a) { return {_mm512_abs_ps(a.v)}; }
inline Vec sqrt(Vec a) { return {_mm512_sqrt_ps(a.v)}; }
inline Vec round(Vec a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline Vec scale_by_power(Vec a, Vec n) { return {_mm512_scalef_ps(a.v, n.v)}; }
inline float sum(Vec a) { return _mm512_reduce_add_ps(a.v); }
inline float hmax(Vec a) { return _mm512_reduce_max_ps(a.v); }

inline Mask operator<(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
inline Mask operator>(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ)}; }
inline Mask operator==(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)}; }
inline bool any(Mask m) { return m.m != 0; }
inline Vec select(Mask m, Vec a, Vec b) { return {_mm512_mask_blend_ps(m.m, b.v, a.v)}; }

inline Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, Vec a) { _mm512_storeu_ps(p, a.v); }
inline Vec load_n(const float* p, int64_t n) { return {_mm512_maskz_loadu_ps(first_lanes(n).m, p)}; }
inline void store_n(float* p, Vec a, int64_t n) { _mm512_mask_storeu_ps(p, first_lanes(n).m, a.v); }

inline __m512 widen(__m256i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }
inline __m256i narrow(__m512 x) {
#ifdef RATTAN_ISA_avx512bf16
  return (__m256i)_mm512_cvtneps_pbh(x);
#else
  __m512i u = _mm512_castps_si512(x);
  __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
  __m512i nan = _mm512_or_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(0x40));
  return _mm512_cvtepi32_epi16(_mm512_mask_blend_epi32(_mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), rounded, nan));
#endif
}

inline Vec load(const int8_t* p) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
}
inline Vec load_n(const int8_t* p, int64_t n) {
  alignas(16) int8_t lanes[16] = {};
  for (int64_t i = 0; i < n; ++i) lanes[i] = p[i];
  return load(lanes);
}

inline Vec load(const bf16* p) { return {widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))}; }
inline void store(bf16* p, Vec a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(a.v)); }
inline Vec load_n(const bf16* p, int64_t n) { return {widen(_mm256_maskz_loadu_epi16(first_lanes(n).m, p))}; }
inline void store_n(bf16* p, Vec a, int64_t n) { _mm256_mask_storeu_epi16(p, first_lanes(n).m, narrow(a.v)); }

// out[c][r] = in[r][c] for a W x W block of 32-bit units; strides in units.
inline void transpose_block(const float* in, int64_t in_row, float* out, int64_t out_row) {
  __m512 a[16], b[16];
  for (int i = 0; i < 16; ++i) a[i] = _mm512_loadu_ps(in + i * in_row);
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    a[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(b[i]), _mm512_castps_pd(b[i + 2])));
    a[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(b[i]), _mm512_castps_pd(b[i + 2])));
    a[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(b[i + 1]), _mm512_castps_pd(b[i + 3])));
    a[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(b[i + 1]), _mm512_castps_pd(b[i + 3])));
  }
  for (int i = 0; i < 4; ++i) {
    __m512 low = _mm512_shuffle_f32x4(a[i], a[i + 4], 0x88), low_odd = _mm512_shuffle_f32x4(a[i], a[i + 4], 0xdd);
    __m512 high = _mm512_shuffle_f32x4(a[i + 8], a[i + 12], 0x88);
    __m512 high_odd = _mm512_shuffle_f32x4(a[i + 8], a[i + 12], 0xdd);
    _mm512_storeu_ps(out + i * out_row, _mm512_shuffle_f32x4(low, high, 0x88));
    _mm512_storeu_ps(out + (i + 4) * out_row, _mm512_shuffle_f32x4(low_odd, high_odd, 0x88));
    _mm512_storeu_ps(out + (i + 8) * out_row, _mm512_shuffle_f32x4(low, high, 0xdd));
    _mm512_storeu_ps(out + (i + 12) * out_row, _mm512_shuffle_f32x4(low_odd, high_odd, 0xdd));
  }
}

#ifdef RATTAN_ISA_avx512bf16
#define RATTAN_PAIRS 1
struct Pair {
  uint32_t bits;
};
struct PairVec {
  __m512i v;
};
inline PairVec load(const Pair* p) { return {_mm512_loadu_si512(p)}; }
inline PairVec splat(Pair p) { return {_mm512_set1_epi32(static_cast<int>(p.bits))}; }
inline void store(Pair* p, PairVec a) { _mm512_storeu_si512(p, a.v); }
// Lane i becomes (low[i], high[i]).
inline PairVec interleave(Vec low, Vec high) {
  __m512i l = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(low.v));
  __m512i h = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(high.v));
  return {_mm512_or_si512(l, _mm512_slli_epi32(h, 16))};
}
inline Vec dot(Vec acc, PairVec a, PairVec b) {
#ifdef __clang__
  // clang 16 crashes on the intrinsic where an operand comes from memory (its 32 x bf16 type).
  asm("vdpbf16ps %2, %1, %0" : "+v"(acc.v) : "v"(a.v), "v"(b.v));
  return acc;
#else
  return {_mm512_dpbf16_ps(acc.v, (__m512bh)a.v, (__m512bh)b.v)};
#endif
}
#endif

}  // namespace rattan::kernels::RATTAN_ISA
