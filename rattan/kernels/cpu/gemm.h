// Small matrix products on tiles that lie in the caches: C = A B or C += A B, in fp32.
//
// A product is made of units: a float, or (bf16 with the processor's pair instruction) two bf16 that are
// neighbors along the summed dimension. A is read one unit at a time at any two strides, so it needs no
// packing; B holds `k` rows of units with the columns contiguous and their number a multiple of W.
#pragma once
#include "rattan/kernels/cpu/simd.h"

namespace rattan::kernels::RATTAN_ISA {

// How products of T are made.
template <class T>
struct Product {
  using Unit = float;
  static constexpr int pair = 1;
};
#ifdef RATTAN_PAIRS
template <>
struct Product<bf16> {
  using Unit = Pair;
  static constexpr int pair = 2;
};
inline Vec multiply_add(PairVec a, PairVec b, Vec c) { return dot(c, a, b); }
#endif
inline Vec multiply_add(Vec a, Vec b, Vec c) { return fma(a, b, c); }

// The registers hold an M x (N W) block of C; 24 accumulators of 32 registers, or 12 of 16.
constexpr int gemm_rows = 6;
constexpr int gemm_vectors = W == 16 ? 4 : 2;

template <int M, int N, class Unit>
[[gnu::always_inline]] inline void gemm_block(int64_t k, const Unit* a, int64_t a_row, int64_t a_k, const Unit* b,
                                              int64_t b_row, float* c, int64_t c_row, bool add) {
  Vec acc[M][N];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) acc[m][n] = add ? load(c + m * c_row + n * W) : zero();
  }
  for (int64_t i = 0; i < k; ++i) {
    decltype(load(b)) row[N];
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) row[n] = load(b + n * W);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      auto x = splat(a[m * a_row]);
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) acc[m][n] = multiply_add(x, row[n], acc[m][n]);
    }
    a += a_k;
    b += b_row;
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) store(c + m * c_row + n * W, acc[m][n]);
  }
}

template <int N, class Unit>
[[gnu::noinline]] void gemm_columns(int64_t m, int64_t k, const Unit* a, int64_t a_row, int64_t a_k, const Unit* b,
                                    int64_t b_row, float* c, int64_t c_row, bool add) {
  for (; m >= gemm_rows; m -= gemm_rows, a += gemm_rows * a_row, c += gemm_rows * c_row) {
    gemm_block<gemm_rows, N>(k, a, a_row, a_k, b, b_row, c, c_row, add);
  }
  if (m >= 4) {
    gemm_block<4, N>(k, a, a_row, a_k, b, b_row, c, c_row, add);
    m -= 4, a += 4 * a_row, c += 4 * c_row;
  }
  if (m >= 2) {
    gemm_block<2, N>(k, a, a_row, a_k, b, b_row, c, c_row, add);
    m -= 2, a += 2 * a_row, c += 2 * c_row;
  }
  if (m >= 1) gemm_block<1, N>(k, a, a_row, a_k, b, b_row, c, c_row, add);
}

// C[m][n] (+)= sum_i A[m][i] B[i][n]. n is a multiple of W, k counts units.
template <class Unit>
void gemm(int64_t m, int64_t n, int64_t k, const Unit* a, int64_t a_row, int64_t a_k, const Unit* b, int64_t b_row,
          float* c, int64_t c_row, bool add) {
  for (; n >= gemm_vectors * W; n -= gemm_vectors * W, b += gemm_vectors * W, c += gemm_vectors * W) {
    gemm_columns<gemm_vectors>(m, k, a, a_row, a_k, b, b_row, c, c_row, add);
  }
  if (n >= 2 * W && gemm_vectors > 2) {
    gemm_columns<2>(m, k, a, a_row, a_k, b, b_row, c, c_row, add);
    n -= 2 * W, b += 2 * W, c += 2 * W;
  }
  if (n >= W) gemm_columns<1>(m, k, a, a_row, a_k, b, b_row, c, c_row, add);
}

}  // namespace rattan::kernels::RATTAN_ISA
