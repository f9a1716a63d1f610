// The vector layer of the CPU kernels: one fp32 vector type of the instruction set's width, in a namespace of
// its own for each instruction set (so that every build of a kernel is a distinct program).
//
// Rules for *.isa.cpp and the headers they include: everything lives in rattan::kernels::RATTAN_ISA; no
// std containers, algorithms or other templates that the compiler may emit out of line: the linker keeps one
// copy of such a function, and that copy could hold instructions the processor lacks. Scratch memory comes
// from scratch.h.
//
//   Vec                 W fp32 lanes
//   load, store         float or bf16 memory (bf16 is rounded to nearest even), unaligned
//                       (load also int8 memory)
//   load_n, store_n     the first n lanes only, 0 <= n <= W; lanes not loaded are 0
//   fma(a, b, c)        a b + c;   fnma(a, b, c)  c - a b
//   sum, hmax           over the lanes
//   exp                 <= 2 ulp, exp(-inf) = 0, exp(+inf) = inf, NaN stays NaN; denormal results may be 0
//   sigmoid             1 / (1 + exp(-x))
//   Mask                compare with <, >, ==; first_lanes(n); select(mask, a, b) = mask ? a : b
//   Pair                two neighboring bf16; dot(acc, a, b) adds both products of each lane in fp32
//                       (only where RATTAN_PAIRS is 1)
#pragma once
#include <cstdint>
#include <cstring>

#include "rattan/base/bf16.h"

#if defined(RATTAN_ISA_avx512) || defined(RATTAN_ISA_avx512bf16)
#include "rattan/kernels/cpu/simd_avx512.h"
#elif defined(RATTAN_ISA_avx2)
#include "rattan/kernels/cpu/simd_avx2.h"
#else
#include "rattan/kernels/cpu/simd_scalar.h"
#endif

namespace rattan::kernels::RATTAN_ISA {

inline Vec& operator+=(Vec& a, Vec b) { return a = a + b; }
inline Vec& operator-=(Vec& a, Vec b) { return a = a - b; }
inline Vec& operator*=(Vec& a, Vec b) { return a = a * b; }
inline Vec operator-(Vec a) { return zero() - a; }

// Range reduction x = n ln2 + r, |r| <= ln2/2 (ln2 in two parts), a degree-6 polynomial (Cephes), 2^n by the
// exponent field. Outside [-104, 89] the result is 0 or inf; the order of the operands lets NaN pass.
inline Vec exp(Vec x) {
  x = min(splat(89.0f), max(splat(-104.0f), x));
  Vec n = round(x * splat(1.44269504088896341f));
  Vec r = fnma(n, splat(0.693359375f), x);
  r = fnma(n, splat(-2.12194440e-4f), r);
  Vec p = splat(1.9875691500e-4f);
  p = fma(p, r, splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  p = fma(p, r * r, r) + splat(1.0f);
  return scale_by_power(p, n);
}

inline Vec sigmoid(Vec x) { return splat(1.0f) / (splat(1.0f) + exp(-x)); }

inline float exp(float x) { return first(exp(splat(x))); }
inline float sigmoid(float x) { return first(sigmoid(splat(x))); }

// Rounds to bf16 and back: what a value is after it was stored as T.
inline float as_stored(float x, const float*) { return x; }
inline float as_stored(float x, const bf16*) { return to_float(to_bf16(x)); }

inline constexpr int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

}  // namespace rattan::kernels::RATTAN_ISA
