// Loops over rows of any length: full vectors, then one partial vector. The body is written once,
//
//   for_lanes(n, [&](int64_t i, auto part) { store(y + i, load(x + i, part) * splat(2.0f), part); });
//
// and compiled twice, for `part` = Full (W lanes) and Part (fewer). See simd.h for the rules of such headers.
#pragma once
#include "rattan/kernels/cpu/simd.h"

namespace rattan::kernels::RATTAN_ISA {

struct Full {};
struct Part {
  int64_t lanes;
};

template <class T>
inline Vec load(const T* p, Full) {
  return load(p);
}
template <class T>
inline Vec load(const T* p, Part part) {
  return load_n(p, part.lanes);
}
template <class T>
inline void store(T* p, Vec a, Full) {
  store(p, a);
}
template <class T>
inline void store(T* p, Vec a, Part part) {
  store_n(p, a, part.lanes);
}

// Lanes beyond the row hold `fill` instead of 0.
template <class T>
inline Vec load_or(const T* p, float, Full) {
  return load(p);
}
template <class T>
inline Vec load_or(const T* p, float fill, Part part) {
  return select(first_lanes(part.lanes), load_n(p, part.lanes), splat(fill));
}

template <class Body>
[[gnu::always_inline]] inline void for_lanes(int64_t n, Body&& body) {
  int64_t i = 0;
  for (; i + W <= n; i += W) body(i, Full{});
  if (i < n) body(i, Part{n - i});
}

// The same with an accumulator index 0 to 3 for the body, body(i, part, k): sums in four independent chains, so
// that they do not wait for one another. Which lane goes to which chain depends on n alone.
template <class Body>
[[gnu::always_inline]] inline void for_lanes_by_four(int64_t n, Body&& body) {
  int64_t i = 0;
  for (; i + 4 * W <= n; i += 4 * W) {
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) body(i + k * W, Full{}, k);
  }
  for (; i + W <= n; i += W) body(i, Full{}, 0);
  if (i < n) body(i, Part{n - i}, 1);
}

template <class T>
inline void fill_zero(T* p, int64_t n) {
  for_lanes(n, [&](int64_t i, auto part) { store(p + i, zero(), part); });
}

// Tasks of about this many elements: long against the cost of handing one out, short against a whole tensor.
constexpr int64_t elements_per_task = 16384;
inline constexpr int64_t rows_per_task(int64_t dim) {
  return dim >= elements_per_task ? 1 : elements_per_task / (dim > 0 ? dim : 1);
}

}  // namespace rattan::kernels::RATTAN_ISA
