// What a block of the chunk step of RAT backward works with (rat_chunks.cu): its memory, its heads, the states at the
// starts of pieces, the inputs of a head that are loaded one head ahead.
#pragma once
#include "rattan/kernels/cuda/rat_piece.cuh"

namespace rattan::kernels::cuda {

namespace rat_chunks_file {

template <class T>
struct Chunks {
  RatBackward<T> a;
  ChunkRows<const T> dy;
  ChunkRows<const float> dq;
  const float* delta;
  float *states, *d_bias, *sums;
  int heads;  // a slice
};

// Shared memory of a block. Sums, keys and biases are each thread's own.
template <class T, int kThreads>
struct Shared {
  static constexpr int E = kChannels<T>;
  static constexpr int kWide = kThreads * E;  // a row of a stream; fixed, so that its address needs no register
  using Pairs = Pack<float, 2 * E>;
  Pairs* sums;      // [threads, 16], rows of 17: no two threads in one bank; dk', then the local dq
  Pairs* keys;      // likewise: k', then q
  float2* weights;  // [warps, 16]: probability and score gradient of the local entry
  float* parts;     // [2, 2, warps, 16]: q.k~ and dy.v~ as each warp adds them up, in turns
  float* d_bias;    // [heads, threads, E]
  T* streams;       // [3, 16, kWide]: g', v, dy of a head of a piece
  static constexpr int kRow = kRatPiece + 1;
  static int64_t bytes(int heads, int threads) {
    return int64_t{threads} * (2 * kRow * 8 * E + 4 * E * heads) + 3 * kRatPiece * kThreads * 4 +
           threads / 32 * kRatPiece * (8 + 16);
  }
  __device__ explicit Shared(char* memory) {
    const int threads = static_cast<int>(blockDim.x), warps = threads / 32;
    sums = reinterpret_cast<Pairs*>(memory) + threadIdx.x * kRow;
    keys = sums + threads * kRow;
    memory += 2 * threads * kRow * 8 * E;
    streams = reinterpret_cast<T*>(memory);
    memory += 3 * kRatPiece * kThreads * 4;
    weights = reinterpret_cast<float2*>(memory) + threadIdx.x / 32 * kRatPiece;
    parts = reinterpret_cast<float*>(memory + warps * kRatPiece * 8);
    d_bias = parts + 4 * warps * kRatPiece + threadIdx.x * E;
  }
  __device__ T* rows(int number) const { return streams + number * kRatPiece * kWide; }
  // This thread's channels of a stream.
  __device__ unsigned stream(int number, int token) const {
    return reinterpret_cast<const unsigned*>(streams)[(number * kRatPiece + token) * kThreads + threadIdx.x];
  }
};

// What a block works on.
template <class T>
struct Block {
  int dim, groups, group, slice, first, heads;  // heads first, first + groups, ...
  int64_t width, chunk;
  RatChunk c;
  Mine<T> mine;

  __device__ explicit Block(const Chunks<T>& p) : mine(static_cast<int>(p.a.shape.dim)) {
    const int all = static_cast<int>(p.a.shape.heads);
    dim = static_cast<int>(p.a.shape.dim), groups = static_cast<int>(p.a.shape.groups);
    group = static_cast<int>(blockIdx.x) % groups, slice = static_cast<int>(blockIdx.y);
    first = group + slice * p.heads * groups;
    heads = first >= all ? 0 : min(p.heads, (all - first + groups - 1) / groups);
    width = p.a.shape.heads * p.a.shape.dim;
  }
  __device__ int64_t head(int i) const { return first + i * groups; }
  __device__ int64_t own(int i) const { return head(i) * dim + mine.channel; }
};

template <bool kVector, class T>
__device__ void load_start(float (&k)[kChannels<T>], float (&v)[kChannels<T>], const Chunks<T>& p, const Block<T>& b,
                           int from, int i) {
#pragma unroll
  for (int e = 0; e < kChannels<T>; ++e) k[e] = v[e] = 0;
  if (from < 0) return;
  load_floats<false>(k, at(p.a.running_k, from, b.head(i)) + b.mine.channel, b.mine);
  load_floats<false>(v, at(p.a.running_v, from, b.head(i)) + b.mine.channel, b.mine);
}

// The row of states that belongs to the piece which starts at token n and is not the first of its chunk. Starts of such
// pieces lie 16 tokens or more apart, in one chunk and between chunks, so their rows differ.
template <class T>
__device__ float* state_row(const Chunks<T>& p, const Block<T>& b, int64_t n, int i) {
  return p.states + n / kRatPiece * 2 * b.width + b.own(i);
}

// Leaves the states at the starts of all pieces but the first.
template <bool kVector, class T>
__device__ __forceinline__ void walk(const Chunks<T>& p, const RatColumns& columns, const Block<T>& b, int i) {
  constexpr int E = kChannels<T>;
  const int64_t of_group = int64_t{b.group} * b.dim + b.mine.channel;
  const int row = static_cast<int>(p.a.proj.row);
  float bias2[E], k[E], v[E];
  load_floats<kVector>(bias2, p.a.gate_bias + b.own(i), b.mine);
  load_start<kVector>(k, v, p, b, b.c.from, i);
#pragma unroll
  for (int e = 0; e < E; ++e) bias2[e] *= kLog2e;
  unsigned raw_g[kRatPiece], raw_v[kRatPiece], raw_k[kRatPiece];
  const auto load = [&](int64_t n) {
    const T* token = at(p.a.proj, n);
    load_piece<kVector, true>(raw_g, token + columns.g + b.own(i), row, kRatPiece, b.mine);
    load_piece<kVector, true>(raw_v, token + columns.v + b.own(i), row, kRatPiece, b.mine);
    load_piece<kVector, true>(raw_k, token + columns.k + of_group, row, kRatPiece, b.mine);
  };
  load(b.c.begin);
  for (int64_t n = b.c.begin; n + kRatPiece < b.c.end; n += kRatPiece) {
    unsigned now_g[kRatPiece], now_v[kRatPiece], now_k[kRatPiece];
#pragma unroll
    for (int j = 0; j < kRatPiece; ++j) {
      now_g[j] = raw_g[j];
      now_v[j] = raw_v[j];
      now_k[j] = raw_k[j];
    }
    if (n + 2 * kRatPiece < b.c.end) load(n + kRatPiece);
#pragma unroll
    for (int j = 0; j < kRatPiece; ++j) {
      float g[E], x[E], y[E];
      unpack<T>(g, now_g[j]);
      unpack<T>(x, now_k[j]);
      unpack<T>(y, now_v[j]);
#pragma unroll
      for (int e = 0; e < E; ++e) {
        const float h = closed(g[e], bias2[e]);
        k[e] += h * (x[e] - k[e]);
        v[e] += h * (y[e] - v[e]);
      }
    }
    float* row_of_state = state_row(p, b, n + kRatPiece, i);
    store_floats<kVector>(row_of_state, k, b.mine);
    store_floats<kVector>(row_of_state + b.width, v, b.mine);
  }
}

// What a head of a piece needs beside its streams, loaded one head ahead.
template <class T>
struct Inputs {
  static constexpr int E = kChannels<T>;
  float bias[E], k[E], v[E];   // the running state before the piece
  float flow_k[E], flow_v[E];  // what flows into the state after it
  float partners[E];           // of flow_k, if that is still rotated
  float lse, delta;            // of token lane mod 16

  template <bool kVector>
  __device__ __forceinline__ void load(const Chunks<T>& p, const Block<T>& b, const RatChunk& c,
                                       const Rotation<T>& rotation, int i, int l0, int last) {
    const int64_t head = b.head(i);
    const int count = min(kRatPiece, c.end - c.begin - l0), token = min(static_cast<int>(threadIdx.x) % 16, count - 1);
    load_floats<kVector>(bias, p.a.gate_bias + b.own(i), b.mine);
    if (l0 > 0) {
      const float* state = state_row(p, b, c.begin + l0, i);
      load_floats<kVector>(k, state, b.mine);
      load_floats<kVector>(v, state + b.width, b.mine);
    } else {
      load_start<kVector>(k, v, p, b, c.from, i);
    }
    if (l0 == last) {
      const float* row = at(p.a.d_ends_k, c.slot, head);
      load_floats<kVector>(flow_k, row + b.mine.channel, b.mine);
      rotation.template load_partners<kVector>(partners, row);
      load_floats<kVector>(flow_v, at(p.a.d_ends_v, c.slot, head) + b.mine.channel, b.mine);
    } else {
      const float* flows = state_row(p, b, c.begin + last, i);
      load_floats<kVector>(flow_k, flows, b.mine);
      load_floats<kVector>(flow_v, flows + b.width, b.mine);
    }
    const int64_t statistic = (c.begin + l0 + token) * p.a.shape.heads + head;
    lse = p.a.lse[statistic];
    delta = p.delta[statistic];
  }
  // The flow into a chunk's last state comes from the end's readers and from the final state.
  __device__ void finish_flow(const Chunks<T>& p, const Block<T>& b, const Rotation<T>& rotation, int i) {
    rotation.apply(flow_k, partners);
    if (!p.a.d_final_k.data || b.c.to < 0) return;
    float x[E], y[E];
    load_floats<false>(x, at(p.a.d_final_k, b.c.to, b.head(i)) + b.mine.channel, b.mine);
    load_floats<false>(y, at(p.a.d_final_v, b.c.to, b.head(i)) + b.mine.channel, b.mine);
#pragma unroll
    for (int e = 0; e < E; ++e) {
      flow_k[e] += x[e];
      flow_v[e] += y[e];
    }
  }
};

}  // namespace rat_chunks_file

}  // namespace rattan::kernels::cuda
