// RAT forward in five steps on one stream:
//   rows     what each token sees, from the chunk table; rotated queries, once a group
//   scan     one warp a (chunk, head): recurrence over the chunk, chunk end, local score s q.k~ of each token
//   ends     interval attention of the tokens over the chunk ends, into `out`, with its log-sum-exp
//   merge    the recurrence of v again (cheaper than keeping it), the local entry merged in, the output gate
//   final    the last running states; after merge, since `final` may be the storage that `running` is read from
#include <cmath>

#include "rattan/kernels/cuda/interval_attention.h"
#include "rattan/kernels/cuda/launch.h"
#include "rattan/kernels/cuda/rat_common.cuh"

namespace rattan::kernels::cuda {

namespace rat_forward_file {

constexpr int kWarps = 8;  // a block

template <class T>
struct Kernel {
  RatForward<T> a;
  RatRows rows;
  float* local;     // [N, H] local scores
  float* lse_ends;  // [N, H] log-sum-exp over the ends
  bool vector;
};

// The (chunk, head) of this warp; false if there is none.
__device__ inline bool my_pair(const RatShape& shape, int64_t& chunk, int& head) {
  const int64_t pair = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  chunk = pair / shape.heads;
  head = static_cast<int>(pair - chunk * shape.heads);
  return chunk < shape.chunks;
}

// The running state a chunk starts from.
template <int E>
__device__ void load_running(float (&x)[E], const HeadsRef<const float>& states, int row, int head, int dim) {
  load_lane(x, row >= 0 ? at(states, row, head) : nullptr, dim, false, row >= 0);
}

template <int E>
__device__ void gates(float (&g)[E], const float (&bias)[E]) {
#pragma unroll
  for (int e = 0; e < E; ++e) g[e] = sigmoid(g[e] + bias[e]);
}

template <int E>
__device__ void step(float (&state)[E], const float (&g)[E], const float (&x)[E]) {
#pragma unroll
  for (int e = 0; e < E; ++e) state[e] = g[e] * state[e] + (1 - g[e]) * x[e];
}

template <class T, int E>
__global__ void __launch_bounds__(kWarps * 32, E < 8 ? 3 : 2) scan_kernel(Kernel<T> p) {
  __shared__ float shared[kWarps][32 * E];
  constexpr int kBatch = E >= 4 ? 2 : 4;  // tokens whose loads are in flight together
  const RatShape& shape = p.a.shape;
  int64_t chunk;
  int head;
  if (!my_pair(shape, chunk, head)) return;
  const RatChunk c = p.a.table[chunk];
  const RatColumns columns(shape);
  const int dim = static_cast<int>(shape.dim), group = head % static_cast<int>(shape.groups);
  const int64_t own = head * shape.dim, of_group = group * shape.dim;
  const float scale = rsqrtf(static_cast<float>(dim));
  float bias[E], k[E], v[E];
  load_lane(bias, p.a.gate_bias + own, dim, false);
  load_running(k, p.a.running_k, c.from, head, dim);
  load_running(v, p.a.running_v, c.from, head, dim);
  for (int64_t n0 = c.begin; n0 < c.end; n0 += kBatch) {
    float g[kBatch][E], xk[kBatch][E], xv[kBatch][E], q[kBatch][E];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const bool in = n0 + i < c.end;
      const T* row = at(p.a.proj, in ? n0 + i : n0);
      load_lane(g[i], row + columns.g + own, dim, p.vector, in);
      load_lane(xv[i], row + columns.v + own, dim, p.vector, in);
      load_lane(xk[i], row + columns.k + of_group, dim, p.vector, in);
      load_lane(q[i], row + columns.q + of_group, dim, p.vector, in);
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (n0 + i >= c.end) break;
      gates(g[i], bias);
      step(k, g[i], xk[i]);
      step(v, g[i], xv[i]);
      float dot = 0;
#pragma unroll
      for (int e = 0; e < E; ++e) dot += q[i][e] * k[e];
      dot = warp_sum(dot);
      if (threadIdx.x % 32 == 0) p.local[(n0 + i) * shape.heads + head] = dot * scale;
    }
  }
  if (p.a.cos) rotate_lane(k, p.a.cos, p.a.sin, c.position, dim, false, shared[threadIdx.x / 32]);
  store_lane(at(p.a.ends_k, c.slot, head), k, dim, p.vector);
  store_lane(at(p.a.ends_v, c.slot, head), v, dim, p.vector);
}

template <class T, int E>
__global__ void __launch_bounds__(kWarps * 32, E < 8 ? 3 : 2) merge_kernel(Kernel<T> p) {
  constexpr int kBatch = E >= 4 ? 2 : 4;
  const RatShape& shape = p.a.shape;
  int64_t chunk;
  int head;
  if (!my_pair(shape, chunk, head)) return;
  const RatChunk c = p.a.table[chunk];
  const RatColumns columns(shape);
  const int dim = static_cast<int>(shape.dim);
  const int64_t own = head * shape.dim;
  float bias[E], v[E];
  load_lane(bias, p.a.gate_bias + own, dim, false);
  load_running(v, p.a.running_v, c.from, head, dim);
  for (int64_t n0 = c.begin; n0 < c.end; n0 += kBatch) {
    float g[kBatch][E], xv[kBatch][E], z[kBatch][E], o[kBatch][E];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const bool in = n0 + i < c.end;
      const T* row = at(p.a.proj, in ? n0 + i : n0);
      load_lane(g[i], row + columns.g + own, dim, p.vector, in);
      load_lane(xv[i], row + columns.v + own, dim, p.vector, in);
      load_lane(z[i], row + columns.z + own, dim, p.vector, in);
      load_lane(o[i], at(p.a.out, in ? n0 + i : n0) + own, dim, p.vector, in);
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int64_t n = n0 + i;
      if (n >= c.end) break;
      gates(g[i], bias);
      step(v, g[i], xv[i]);
      const float local = p.local[n * shape.heads + head], ends = p.lse_ends[n * shape.heads + head];
      const float top = fmaxf(local, ends);
      float w_ends = expf(ends - top), w_local = expf(local - top);
      const float total = w_ends + w_local;
      w_ends /= total;
      w_local /= total;
      float y[E];
#pragma unroll
      for (int e = 0; e < E; ++e) {
        y[e] = w_ends * o[i][e] + w_local * v[e];
        o[i][e] = sigmoid(z[i][e]) * y[e];
      }
      if (p.a.y.data) store_lane(at(p.a.y, n) + own, y, dim, p.vector);
      store_lane(at(p.a.out, n) + own, o[i], dim, p.vector);
      if (p.a.lse && threadIdx.x % 32 == 0) p.a.lse[n * shape.heads + head] = top + logf(total);
    }
  }
}

template <class T, int E>
__global__ void __launch_bounds__(kWarps * 32) final_kernel(Kernel<T> p) {
  const RatShape& shape = p.a.shape;
  int64_t chunk;
  int head;
  if (!my_pair(shape, chunk, head)) return;
  const RatChunk c = p.a.table[chunk];
  if (c.to < 0) return;
  const RatColumns columns(shape);
  const int dim = static_cast<int>(shape.dim);
  const int64_t own = head * shape.dim, of_group = head % static_cast<int>(shape.groups) * shape.dim;
  float bias[E], k[E], v[E], g[E], xk[E], xv[E];
  load_lane(bias, p.a.gate_bias + own, dim, false);
  load_running(k, p.a.running_k, c.from, head, dim);
  load_running(v, p.a.running_v, c.from, head, dim);
  for (int64_t n = c.begin; n < c.end; ++n) {
    const T* row = at(p.a.proj, n);
    load_lane(g, row + columns.g + own, dim, p.vector);
    load_lane(xv, row + columns.v + own, dim, p.vector);
    load_lane(xk, row + columns.k + of_group, dim, p.vector);
    gates(g, bias);
    step(k, g, xk);
    step(v, g, xv);
  }
  store_lane(at(p.a.final_k, c.to, head), k, dim, false);
  store_lane(at(p.a.final_v, c.to, head), v, dim, false);
}

// Tokens of no chunk: out = y = 0, lse = -inf. One warp a token.
template <class T>
__global__ void padding_kernel(Kernel<T> p) {
  const int64_t n = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  if (n >= p.a.shape.tokens || p.rows.position[n] >= 0) return;
  const int lane = threadIdx.x % 32;
  const int64_t width = p.a.shape.heads * p.a.shape.dim;
  for (int64_t c = lane; c < width; c += 32) {
    at(p.a.out, n)[c] = from_float<T>(0);
    if (p.a.y.data) at(p.a.y, n)[c] = from_float<T>(0);
  }
  if (!p.a.lse) return;
  for (int64_t h = lane; h < p.a.shape.heads; h += 32) p.a.lse[n * p.a.shape.heads + h] = -INFINITY;
}

template <class T>
struct Pieces {
  RatRows rows;
  float *local, *lse_ends;
  T* queries;
  Pieces(Scratch& scratch, const RatShape& s)
      : rows(take_rows(scratch, s.tokens)),
        local(scratch.take<float>(s.tokens * s.heads)),
        lse_ends(scratch.take<float>(s.tokens * s.heads)),
        queries(scratch.take<T>(s.tokens * s.groups * s.dim)) {}
};

template <class T>
void run(const RatForward<T>& a, void* scratch_memory, void* stream_pointer) {
  const RatShape& shape = a.shape;
  if (shape.tokens == 0 || shape.heads == 0 || shape.dim == 0) return;
  check_dim("rat_forward", shape.dim);
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  Scratch scratch(scratch_memory);
  const Pieces<T> pieces(scratch, shape);
  const bool vector = rat_vector<T>(shape) && aligned16(a.proj) && aligned16(a.out) && aligned16(a.ends_k) &&
                      aligned16(a.ends_v) && (!a.y.data || aligned16(a.y));
  const Kernel<T> p{a, pieces.rows, pieces.local, pieces.lse_ends, vector};
  rat_rows(shape, a.table, pieces.rows, stream);
  padding_kernel<<<static_cast<unsigned>(blocks_for(shape.tokens, kWarps)), kWarps * 32, 0, stream>>>(p);
  check_launch("rat_forward (padding)");
  if (shape.chunks == 0) return;
  rat_rotate_queries(shape, pieces.rows, a.cos, a.sin, a.proj, pieces.queries, stream);

  const auto blocks = static_cast<unsigned>(blocks_for(shape.chunks * shape.heads, kWarps));
  with_lane_channels(shape.dim, [&](auto e) {
    scan_kernel<T, e.value><<<blocks, kWarps * 32, 0, stream>>>(p);
    check_launch("rat_forward (scan)");
  });
  IntervalForward<T> f;
  f.queries = shape.tokens, f.keys = shape.ends, f.dim = shape.dim;
  f.heads = f.kv_heads = shape.heads, f.q_heads = shape.groups;
  f.scale = 1.0f / std::sqrt(static_cast<float>(shape.dim));
  f.begin = pieces.rows.first, f.end = pieces.rows.slot;
  f.q = {pieces.queries, shape.groups * shape.dim, shape.dim};
  f.k = {a.ends_k.data, a.ends_k.row, a.ends_k.head};
  f.v = {a.ends_v.data, a.ends_v.row, a.ends_v.head};
  f.o = {a.out.data, a.out.row, shape.dim};
  f.lse = pieces.lse_ends;
  interval_attention_forward(f, stream);
  with_lane_channels(shape.dim, [&](auto e) {
    merge_kernel<T, e.value><<<blocks, kWarps * 32, 0, stream>>>(p);
    check_launch("rat_forward (merge)");
    if (!a.final_k.data) return;
    final_kernel<T, e.value><<<blocks, kWarps * 32, 0, stream>>>(p);
    check_launch("rat_forward (final)");
  });
}

}  // namespace rat_forward_file

// Per token: 12 bytes of rows, two fp32 a head, the rotated queries (counted as fp32): 1.2 KB at 16 heads of
// 128 in 2 groups.
int64_t rat_forward_scratch_bytes(const RatShape& shape) {
  Scratch scratch;
  rat_forward_file::Pieces<float>(scratch, shape);
  return scratch.used();
}
void rat_forward(const RatForward<float>& a, void* scratch, void* stream) { rat_forward_file::run(a, scratch, stream); }
void rat_forward(const RatForward<bf16>& a, void* scratch, void* stream) { rat_forward_file::run(a, scratch, stream); }

}  // namespace rattan::kernels::cuda
