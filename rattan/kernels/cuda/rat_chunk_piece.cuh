// One piece of 16 tokens in the chunk step of RAT backward (rat_chunks.cu): forth with the recurrence, back with its
// gradient, and the gradients of keys and queries that all heads of the group leave.
#pragma once
#include "rattan/kernels/cuda/rat_chunks.cuh"

namespace rattan::kernels::cuda {

namespace rat_chunks_file {

// Keys and queries of the piece at token l0 of the chunk into shared memory; the sums begin with the part of dq that
// the attention over the ends gave, rotated back, unless it is for the sums over slices to add.
template <bool kVector, bool kFull, class T, int kThreads>
__device__ __forceinline__ void begin_piece(const Chunks<T>& p, const RatColumns& columns,
                                            const Shared<T, kThreads>& shared, const Block<T>& b,
                                            const Rotation<T>& rotation, int l0, int count) {
  constexpr int E = kChannels<T>;
  const T* token = at(p.a.proj, b.c.begin + l0) + int64_t{b.group} * b.dim + b.mine.channel;
  const int row = static_cast<int>(p.a.proj.row);
  unsigned keys[kRatPiece], queries[kRatPiece];
  load_piece<kVector, kFull>(keys, token + columns.k, row, count, b.mine);
  load_piece<kVector, kFull>(queries, token + columns.q, row, count, b.mine);
  float far[kRatPiece][E], partners[kRatPiece][E];
  const float* d_query = at(p.dq, b.c, b.chunk, b.group, l0);
#pragma unroll
  for (int j = 0; j < kRatPiece; ++j, d_query += p.dq.token) {
#pragma unroll
    for (int e = 0; e < E; ++e) far[j][e] = partners[j][e] = 0;
    if (p.sums || (!kFull && j >= count)) continue;
    load_floats<kVector>(far[j], d_query + b.mine.channel, b.mine);
    rotation.template load_partners<kVector>(partners[j], d_query);
  }
#pragma unroll
  for (int j = 0; j < kRatPiece; ++j) {
    float x[E], q[E];
    unpack<T>(x, keys[j]);
    unpack<T>(q, queries[j]);
    rotation.apply(far[j], partners[j]);
    Pack<float, 2 * E> both, sums;
#pragma unroll
    for (int e = 0; e < E; ++e) {
      both.item[e] = b.mine.active ? x[e] : 0.0f;
      both.item[E + e] = b.mine.active ? q[e] : 0.0f;
      sums.item[e] = 0;
      sums.item[E + e] = far[j][e];
    }
    shared.keys[j] = both;
    shared.sums[j] = sums;
  }
}

// What the forward walk over a piece keeps for the way back.
template <class T>
struct Walked {
  static constexpr int E = kChannels<T>;
  float h[kRatPiece][E];           // 1 - g
  float before[kRatPiece + 1][E];  // k~ before each token and after the last
  float u[kRatPiece][E];           // v - v~ of the token before
  unsigned dy[kRatPiece];
};

// The walk. Returns q.k~ and dy.v~ of token lane mod 16, summed over the head.
template <bool kFull, class T, int kThreads>
__device__ __forceinline__ float2 forth(Walked<T>& w, const Shared<T, kThreads>& shared, const Inputs<T>& in, int count,
                                        int turn) {
  constexpr int E = kChannels<T>;
  float bias2[E], k[E], v[E], key_dots[8], value_dots[8];
#pragma unroll
  for (int e = 0; e < E; ++e) {
    bias2[e] = in.bias[e] * kLog2e;
    k[e] = w.before[0][e] = in.k[e];
    v[e] = in.v[e];
  }
#pragma unroll
  for (int j = 0; j < kRatPiece; ++j) {
    float g[E];
    unpack<T>(g, shared.stream(0, j));
#pragma unroll
    for (int e = 0; e < E; ++e) w.h[j][e] = kFull || j < count ? closed(g[e], bias2[e]) : 0.0f;
  }
#pragma unroll
  for (int j = 0; j < kRatPiece; ++j) {
    float key_dot = 0, value_dot = 0;
    if (kFull || j < count) {
      float y[E], d[E];
      const auto key = shared.keys[j];
      w.dy[j] = shared.stream(2, j);
      unpack<T>(y, shared.stream(1, j));
      unpack<T>(d, w.dy[j]);
#pragma unroll
      for (int e = 0; e < E; ++e) {
        k[e] += w.h[j][e] * (key.item[e] - k[e]);
        w.before[j + 1][e] = k[e];
        w.u[j][e] = y[e] - v[e];
        v[e] += w.h[j][e] * w.u[j][e];
        key_dot += key.item[E + e] * k[e];
        value_dot += d[e] * v[e];
      }
    }
    if (j < 8) {
      key_dots[j] = key_dot;
      value_dots[j] = value_dot;
    } else {
      key_dots[j - 8] = fold(key_dots[j - 8], key_dot, 8);
      value_dots[j - 8] = fold(value_dots[j - 8], value_dot, 8);
    }
  }
  float2 sums = make_float2(fold_eight(key_dots), fold_eight(value_dots));
  const int warps = static_cast<int>(blockDim.x) / 32, lane = threadIdx.x % 32;
  float* parts = shared.parts + turn * 2 * warps * kRatPiece + lane % kRatPiece;
  if (lane < kRatPiece) {
    parts[threadIdx.x / 32 * kRatPiece] = sums.x;
    parts[(warps + threadIdx.x / 32) * kRatPiece] = sums.y;
  }
  __syncthreads();  // and the streams are read
  if (warps == 2) return make_float2(parts[0] + parts[kRatPiece], parts[2 * kRatPiece] + parts[3 * kRatPiece]);
  sums = make_float2(0, 0);
#pragma unroll 1
  for (int i = 0; i < warps; ++i) {
    sums.x += parts[i * kRatPiece];
    sums.y += parts[(warps + i) * kRatPiece];
  }
  return sums;
}

// The way back, with the weights of the local entries in shared memory. d_values, d_gates: of the piece's first token.
template <bool kVector, bool kFull, class T, int kThreads>
__device__ __forceinline__ void back(const Walked<T>& w, const Shared<T, kThreads>& shared, Inputs<T>& in, int count,
                                     float (&d_bias)[kChannels<T>], T* d_values, T* d_gates, int row,
                                     const Mine<T>& mine) {
  constexpr int E = kChannels<T>;
  d_values += int64_t{count - 1} * row;
  d_gates += int64_t{count - 1} * row;
#pragma unroll
  for (int j = kRatPiece - 1; j >= 0; --j) {
    if (!kFull && j >= count) continue;
    const float2 weight = shared.weights[j];
    const auto key = shared.keys[j];
    auto sums = shared.sums[j];
    float d[E], dv[E], dg[E];
    unpack<T>(d, w.dy[j]);
#pragma unroll
    for (int e = 0; e < E; ++e) {
      const float h = w.h[j][e];
      const float lambda = weight.y * key.item[E + e] + in.flow_k[e], mu = weight.x * d[e] + in.flow_v[e];
      const float dk = h * lambda;
      dv[e] = h * mu;
      sums.item[e] += dk;
      sums.item[E + e] += weight.y * w.before[j + 1][e];
      const float open = dk * (key.item[e] - w.before[j][e]) + dv[e] * w.u[j][e];
      dg[e] = h * open - open;  // -g open
      d_bias[e] += dg[e];
      in.flow_k[e] = lambda - dk;
      in.flow_v[e] = mu - dv[e];
    }
    shared.sums[j] = sums;
    store_raw<kVector>(d_values, pack<T>(dv), mine);
    store_raw<kVector>(d_gates, pack<T>(dg), mine);
    d_values -= row;
    d_gates -= row;
  }
}

// dk' and dq of a piece, or this slice's part of them.
template <bool kVector, class T, int kThreads>
__device__ __forceinline__ void end_piece(const Chunks<T>& p, const RatColumns& columns,
                                          const Shared<T, kThreads>& shared, const Block<T>& b, int l0, int count) {
  constexpr int E = kChannels<T>;
  const int64_t of_group = int64_t{b.group} * b.dim + b.mine.channel, width = p.a.shape.groups * b.dim;
  const int64_t n = b.c.begin + l0;
#pragma unroll 4
  for (int j = 0; j < count; ++j) {
    const auto sums = shared.sums[j];
    float dk[E], dq[E];
#pragma unroll
    for (int e = 0; e < E; ++e) {
      dk[e] = sums.item[e];
      dq[e] = sums.item[E + e];
    }
    if (p.sums) {
      float* to = p.sums + (b.slice * p.a.shape.tokens + n + j) * 2 * width + of_group;
      store_floats<kVector>(to, dk, b.mine);
      store_floats<kVector>(to + width, dq, b.mine);
    } else {
      T* to = at(p.a.d_proj, n + j) + of_group;
      store_raw<kVector>(to + columns.k, pack<T>(dk), b.mine);
      store_raw<kVector>(to + columns.q, pack<T>(dq), b.mine);
    }
  }
}

}  // namespace rat_chunks_file

}  // namespace rattan::kernels::cuda
