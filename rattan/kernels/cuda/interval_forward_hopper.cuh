// The parts of interval attention forward for Hopper: the online softmax of a warpgroup's rows, and what becomes of its
// sums (interval_forward_hopper.cu).
#pragma once
#include <cmath>

#include "rattan/kernels/cuda/row_tile.cuh"

namespace rattan::kernels::cuda {

// A row's probabilities are exp2(score - base). The base is the row's maximum, but one that was exceeded by less than
// this (in powers of two) serves on: the sums are scaled seldom, and probabilities stay below 256.
inline constexpr float kBaseSlack = 8;

// -inf for 0.
__device__ inline float fast_log2(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// What the sums of two rows, and their own values, are multiplied with.
struct RowFactors {
  float sums[2], own[2];
};

// 64 rows of one head; a thread has two, i * 8 apart.
template <int D>
struct SoftmaxRows {
  float out[D / 8][4], base[2], sum[2];  // sum: of this thread's columns
  int begin[2], end[2];
  int last_begin, first_end;  // of the warp's 16 rows

  __device__ void find_common() {
    last_begin = __reduce_max_sync(kAllLanes, max(begin[0], begin[1]));
    first_end = __reduce_min_sync(kAllLanes, min(end[0], end[1]));
  }

  __device__ void see_nothing() {
    clear(out);
#pragma unroll
    for (int i = 0; i < 2; ++i) base[i] = -INFINITY, sum[i] = 0;
  }

  // Scores become probabilities. The first block of a head sets the base, later ones move it if they must; then
  // `shrink` is what the products so far are to be multiplied with.
  template <bool opens, int N>
  __device__ bool exponentials(float (&s)[N][4], int key0, float scale, float (&shrink)[2]) {
    if (last_begin > key0 || first_end < key0 + N * 8) hide(s, key0);
    float top[2];
    find_tops(top, s, scale);
    bool moves = false;
    if constexpr (opens) {
#pragma unroll
      for (int i = 0; i < 2; ++i) base[i] = top[i], sum[i] = 0;
    } else {
      moves = __any_sync(kAllLanes, top[0] > base[0] + kBaseSlack || top[1] > base[1] + kBaseSlack);
      if (moves) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float risen = fmaxf(base[i], top[i]);
          shrink[i] = fast_exp2(base[i] - finite(risen));
          sum[i] *= shrink[i];
          base[i] = risen;
        }
      }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float subtract = finite(base[i]);
      float totals[2] = {0, 0};
#pragma unroll
      for (int n = 0; n < N; ++n) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          float& x = s[n][i * 2 + c];
          x = fast_exp2(x * scale - subtract);
          totals[c] += x;
        }
      }
      sum[i] += totals[0] + totals[1];
    }
    return moves;
  }

  __device__ void scale_out(const float (&by)[2]) {
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) out[n][i] *= by[i / 2];
    }
  }

  // What `out` is to be multiplied with, the factors of own entries scored `scores` (natural logarithms; -inf: none),
  // and the log-sum-exp of all.
  template <bool own>
  __device__ RowFactors factors(const float (&scores)[2], float (&lse)[2]) const {
    RowFactors result;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float row_sum = sum[i] + __shfl_xor_sync(kAllLanes, sum[i], 1);
      row_sum += __shfl_xor_sync(kAllLanes, row_sum, 2);
      const float score = own ? scores[i] * kLog2e : -INFINITY, top = own ? fmaxf(base[i], score) : base[i];
      const float others = own ? fast_exp2(base[i] - finite(top)) : 1.0f;
      const float alone = own ? fast_exp2(score - finite(top)) : 0.0f;
      const float total = others * row_sum + alone, inverse = total > 0 ? fast_inverse(total) : 0.0f;
      result.sums[i] = others * inverse;
      result.own[i] = alone * inverse;
      lse[i] = (finite(top) + fast_log2(total)) * kLn2;
    }
    return result;
  }

 private:
  // The base of rows that have seen no key yet is -inf.
  __device__ static float finite(float base) { return base == -INFINITY ? 0.0f : base; }

  // The greatest scores of both rows, times `scale`; four chains a row, since each waits for itself.
  template <int N>
  __device__ static void find_tops(float (&top)[2], const float (&s)[N][4], float scale) {
    float tops[2][4];
#pragma unroll
    for (int n = 0; n < N; ++n) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float& t = tops[i][n % 4];
        const float pair = fmaxf(s[n][i * 2], s[n][i * 2 + 1]);
        t = n < 4 ? pair : fmaxf(t, pair);
      }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      top[i] = fmaxf(fmaxf(tops[i][0], tops[i][1]), fmaxf(tops[i][2], tops[i][3]));
      top[i] = fmaxf(top[i], __shfl_xor_sync(kAllLanes, top[i], 1));
      top[i] = fmaxf(top[i], __shfl_xor_sync(kAllLanes, top[i], 2)) * scale;
    }
  }

  template <int N>
  __device__ void hide(float (&s)[N][4], int key0) const {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int first = begin[i] - key0 - threadIdx.x % 4 * 2, last = end[i] - key0 - threadIdx.x % 4 * 2;
#pragma unroll
      for (int n = 0; n < N; ++n) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          if (n * 8 + c < first || n * 8 + c >= last) s[n][i * 2 + c] = -INFINITY;
        }
      }
    }
  }
};

// sigmoid(x); 0 where its inverse overflows.
__device__ inline float open_gate(float x) { return fast_inverse(1.0f + fast_exp2(x * -kLog2e)); }

// tile = the rows' outputs; with `own`, merged with the values in it and gated. Reads and writes come in batches: a
// read that follows a write waits for it.
template <bool own, int D>
__device__ void put_rows(bf16* tile, bf16* gates, int first, const float (&out)[D / 8][4], const RowFactors& factors) {
  constexpr int batch = 8;
  const int channel = threadIdx.x % 4 * 2;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int row = first + i * 8;
    // Values of weight 0 may be anything, and so may the gate of rows that see nothing.
    const unsigned uses = mask_of(factors.own[i] != 0), sees = mask_of(factors.own[i] != 0 || factors.sums[i] != 0);
#pragma unroll
    for (int start = 0; start < D / 8; start += batch) {
      unsigned values[batch], gate[batch];
      if constexpr (own) {
#pragma unroll
        for (int n = 0; n < batch; ++n) {
          values[n] = pair_at(tile, row, (start + n) * 8 + channel) & uses;
          gate[n] = pair_at(gates, row, (start + n) * 8 + channel);
        }
      }
#pragma unroll
      for (int n = 0; n < batch; ++n) {
        float x = out[start + n][i * 2] * factors.sums[i], y = out[start + n][i * 2 + 1] * factors.sums[i];
        if constexpr (own) {
          x = fmaf(factors.own[i], low_half(values[n]), x) * open_gate(low_half(gate[n]));
          y = fmaf(factors.own[i], high_half(values[n]), y) * open_gate(high_half(gate[n]));
        }
        values[n] = own ? pack2(x, y) & sees : pack2(x, y);
      }
#pragma unroll
      for (int n = 0; n < batch; ++n) pair_at(tile, row, (start + n) * 8 + channel) = values[n];
    }
  }
}

}  // namespace rattan::kernels::cuda
