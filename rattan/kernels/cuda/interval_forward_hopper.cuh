// The parts of interval attention forward for Hopper: the online softmax of a warpgroup's rows, and what becomes of its
// sums (interval_forward_hopper.cu).
#pragma once
#include <cmath>

#include "rattan/kernels/cuda/hopper.cuh"
#include "rattan/kernels/cuda/interval_attention.h"

namespace rattan::kernels::cuda {

// A row's probabilities are exp2(score - base). The base is the row's maximum, but one that was exceeded by less than
// this (in powers of two) serves on: the sums are scaled seldom, and probabilities stay below 256.
inline constexpr float kBaseSlack = 8;

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

  // Scores become probabilities. The first block of a head sets the base, later ones move it if they must; then
  // `shrink` is what the products so far are to be multiplied with.
  template <bool opens, int N>
  __device__ bool exponentials(float (&s)[N][4], int key0, float scale, float (&shrink)[2]) {
    if (last_begin > key0 || first_end < key0 + N * 8) hide(s, key0);
    float top[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      top[i] = s[0][i * 2];
#pragma unroll
      for (int n = 0; n < N; ++n) top[i] = fmaxf(top[i], fmaxf(s[n][i * 2], s[n][i * 2 + 1]));
      top[i] = fmaxf(top[i], __shfl_xor_sync(kAllLanes, top[i], 1));
      top[i] = fmaxf(top[i], __shfl_xor_sync(kAllLanes, top[i], 2)) * scale;
    }
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
      float total = 0;
#pragma unroll
      for (int n = 0; n < N; ++n) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          float& x = s[n][i * 2 + c];
          x = fast_exp2(x * scale - subtract);
          total += x;
        }
      }
      sum[i] += total;
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

  // The sums of whole rows.
  __device__ void join_sums() {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      sum[i] += __shfl_xor_sync(kAllLanes, sum[i], 1);
      sum[i] += __shfl_xor_sync(kAllLanes, sum[i], 2);
    }
  }
  __device__ float log_sum(int i) const { return sum[i] > 0 ? (base[i] + __log2f(sum[i])) * kLn2 : -INFINITY; }

 private:
  // The base of rows that have seen no key yet is -inf.
  __device__ static float finite(float base) { return base == -INFINITY ? 0.0f : base; }

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

// Two neighboring channels of a row in a tile of 64 rows as the copy engine lays it out.
__device__ inline unsigned& pair_at(bf16* tile, int row, int channel) {
  const int unit = channel % 64 / 8 ^ row % 8;
  return *reinterpret_cast<unsigned*>(tile + channel / 64 * 64 * 64 + row * 64 + unit * 8 + channel % 8);
}
__device__ inline float low_half(unsigned pair) { return __uint_as_float(pair << 16); }
__device__ inline float high_half(unsigned pair) { return __uint_as_float(pair & 0xffff0000u); }

// sigmoid(x); 0 where its inverse overflows.
__device__ inline float open_gate(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(1.0f + fast_exp2(x * -kLog2e)));
  return y;
}

// What the sums of a row, and its own value, are multiplied with.
struct RowFactors {
  float sums[2], own[2];
};

// Of rows with an entry of their own, scored `scores`; `lse` becomes that of all entries.
__device__ inline void add_own_entries(RowFactors& factors, float (&lse)[2], const float (&scores)[2]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float score = scores[i], top = fmaxf(lse[i], score);
    const float others = top > -INFINITY ? fast_exp2((lse[i] - top) * kLog2e) : 0.0f;
    factors.own[i] = top > -INFINITY ? fast_exp2((score - top) * kLog2e) : 0.0f;
    const float total = others + factors.own[i];
    lse[i] = total > 0 ? top + __log2f(total) * kLn2 : -INFINITY;
    factors.sums[i] *= total > 0 ? others / total : 0.0f;
    factors.own[i] /= total > 0 ? total : 1.0f;
  }
}

// tile = the rows' outputs; with `own`, merged with the values in it and gated.
template <bool own, int D>
__device__ void put_rows(bf16* tile, bf16* gates, int first, const float (&out)[D / 8][4], const RowFactors& factors) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const unsigned uses = factors.own[i] == 0 ? 0u : ~0u;  // else the value may be anything
    const bool blind = factors.own[i] == 0 && factors.sums[i] == 0;
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
      unsigned& pair = pair_at(tile, first + i * 8, n * 8 + lane % 4 * 2);
      float x = out[n][i * 2] * factors.sums[i], y = out[n][i * 2 + 1] * factors.sums[i];
      if constexpr (own) {
        const unsigned gate = pair_at(gates, first + i * 8, n * 8 + lane % 4 * 2), value = pair & uses;
        x = fmaf(factors.own[i], low_half(value), x) * open_gate(low_half(gate));
        y = fmaf(factors.own[i], high_half(value), y) * open_gate(high_half(gate));
      }
      pair = blind && own ? 0u : pack2(x, y);
    }
  }
}

}  // namespace rattan::kernels::cuda
