// RAT backward in four steps on one stream:
//   rows     what each token sees; rotated queries; dy = z dout
//   ends     interval attention backward over the chunk ends with the merged y and lse: dq summed over the heads
//            of a group, the gradients of the ends added to d_ends
//   chunks   local entries, the recurrence again and its reverse scan (below)
//   finish   dk' and dq: the sums over heads, dq rotated back
//
// Chunk step: a block is up to 8 warps, each with another head of one group, that walk in step over the tokens of
// a run of chunks. A chunk is cut into pieces of S tokens: a walk forward leaves the state at the start of each
// piece in scratch; then, piece by piece from the last, the S states are made again in shared memory and the reverse
// scan runs over them, leaving dk' and dq in the place of the states, which are then added up over the warps in order.
#include <cmath>

#include "rattan/kernels/cuda/interval_attention.h"
#include "rattan/kernels/cuda/launch.h"
#include "rattan/kernels/cuda/rat_common.cuh"

namespace rattan::kernels::cuda {

namespace rat_backward_file {

constexpr int kMaxWarps = 8;
constexpr int64_t kMaxRuns = 1024;  // blocks along the chunks

// Tokens a piece for E channels a lane: eight warps with two rows a token take 64 KB of shared memory at most.
template <int E>
constexpr int kPiece = E >= 2 ? 32 / E : 16;
int64_t piece(int64_t dim) { return dim <= 64 ? 16 : dim <= 128 ? 8 : 4; }

int64_t heads_per_group(const RatShape& s) { return blocks_for(s.heads, s.groups); }
int64_t slices(const RatShape& s) { return blocks_for(heads_per_group(s), kMaxWarps); }
int64_t runs(const RatShape& s) { return s.chunks < kMaxRuns ? s.chunks : kMaxRuns; }

template <class T>
struct Pieces {
  RatRows rows;
  T *queries, *dy;  // [N, G, p], [N, H, p]
  float* dq;        // [N, G, p], rotated, from the ends
  float* sums;      // [slices, N, 2, G, p]: dk' and the local part of dq
  float* states;    // [N / S + 1, 2, H, p]: running state at the start of a piece
  float* d_bias;    // [runs, D]
  Pieces(Scratch& scratch, const RatShape& s)
      : rows(take_rows(scratch, s.tokens)),
        queries(scratch.take<T>(s.tokens * s.groups * s.dim)),
        dy(scratch.take<T>(s.tokens * s.heads * s.dim)),
        dq(scratch.take<float>(s.tokens * s.groups * s.dim)),
        sums(scratch.take<float>(slices(s) * s.tokens * 2 * s.groups * s.dim)),
        states(scratch.take<float>((s.tokens / piece(s.dim) + 1) * 2 * s.heads * s.dim)),
        d_bias(scratch.take<float>(runs(s) * s.heads * s.dim)) {}
};

template <class T>
struct Kernel {
  RatBackward<T> a;
  Pieces<T> s;
  bool vector;
};

// dy = sigmoid(z') dout; 0 for padding, whose row of d_proj becomes 0 as well. One thread a channel.
template <class T>
__global__ void gate_kernel(Kernel<T> p) {
  const int64_t n = blockIdx.x, width = p.a.shape.heads * p.a.shape.dim;
  const bool in = p.s.rows.position[n] >= 0;
  const T* z = at(p.a.proj, n);
  const T* d_out = at(p.a.d_out, n);
  for (int64_t c = threadIdx.x; c < width; c += blockDim.x) {
    p.s.dy[n * width + c] = from_float<T>(in ? sigmoid(as_float(z[c])) * as_float(d_out[c]) : 0.0f);
  }
  if (in) return;
  const int64_t all = RatColumns(p.a.shape).width;
  for (int64_t c = threadIdx.x; c < all; c += blockDim.x) at(p.a.d_proj, n)[c] = from_float<T>(0);
}

// A token's streams for one head, as lanes hold them.
template <class T, int E>
struct Token {
  float g[E], k[E], v[E];

  __device__ void load(const Kernel<T>& p, const RatColumns& columns, int64_t n, int64_t own, int64_t of_group,
                       const float (&bias)[E], bool in) {
    const int dim = static_cast<int>(p.a.shape.dim);
    const T* row = at(p.a.proj, n);
    load_lane(g, row + columns.g + own, dim, p.vector, in);
    load_lane(v, row + columns.v + own, dim, p.vector, in);
    load_lane(k, row + columns.k + of_group, dim, p.vector, in);
#pragma unroll
    for (int e = 0; e < E; ++e) g[e] = sigmoid(g[e] + bias[e]);
  }
  __device__ void step(float (&state_k)[E], float (&state_v)[E]) const {
#pragma unroll
    for (int e = 0; e < E; ++e) {
      state_k[e] = g[e] * state_k[e] + (1 - g[e]) * k[e];
      state_v[e] = g[e] * state_v[e] + (1 - g[e]) * v[e];
    }
  }
};

// What the reverse scan reads of a token besides its gate, key and value. All of it is loaded one token ahead.
template <class T, int E>
struct Ahead {
  Token<T, E> token;
  float q[E], z[E], y[E], d_out[E], lse;

  __device__ void load(const Kernel<T>& p, const RatColumns& columns, int64_t n, int64_t head, int64_t of_group,
                       const float (&bias)[E]) {
    const int dim = static_cast<int>(p.a.shape.dim);
    const int64_t own = head * dim;
    token.load(p, columns, n, own, of_group, bias, true);
    load_lane(q, at(p.a.proj, n) + columns.q + of_group, dim, p.vector);
    load_lane(z, at(p.a.proj, n) + columns.z + own, dim, p.vector);
    load_lane(y, at(p.a.y, n) + own, dim, p.vector);
    load_lane(d_out, at(p.a.d_out, n) + own, dim, p.vector);
    lse = p.a.lse[n * p.a.shape.heads + head];
  }
};

// A lane's channels in shared memory, without bank conflicts: channel e of lane t at e 32 + t.
template <int E>
__device__ void put(float* shared, const float (&x)[E]) {
#pragma unroll
  for (int e = 0; e < E; ++e) shared[e * 32 + threadIdx.x % 32] = x[e];
}
template <int E>
__device__ void get(const float* shared, float (&x)[E]) {
#pragma unroll
  for (int e = 0; e < E; ++e) x[e] = shared[e * 32 + threadIdx.x % 32];
}

template <int E>
__device__ float dot(const float (&x)[E], const float (&y)[E]) {
  float sum = 0;
#pragma unroll
  for (int e = 0; e < E; ++e) sum += x[e] * y[e];
  return warp_sum(sum);
}

// blockIdx: run of chunks, group, slice of the group's heads.
template <class T, int E>
__global__ void __launch_bounds__(kMaxWarps * 32, E < 8 ? 2 : 1) chunk_kernel(Kernel<T> p) {
  constexpr int S = kPiece<E>;
  extern __shared__ float shared[];  // [warps][S][2][32 E]
  const RatShape& shape = p.a.shape;
  const RatColumns columns(shape);
  const int warps = blockDim.x / 32, warp = threadIdx.x / 32;
  const int dim = static_cast<int>(shape.dim), group = blockIdx.y;
  const int64_t head = group + (int64_t{blockIdx.z} * kMaxWarps + warp) * shape.groups;
  const bool active = head < shape.heads;
  const int64_t own = head * dim, of_group = int64_t{group} * dim;
  const float scale = rsqrtf(static_cast<float>(dim));
  float* mine = shared + warp * S * 64 * E;
  float bias[E], d_bias[E] = {};
  load_lane(bias, p.a.gate_bias + own, dim, false, active);

  const int64_t first_chunk = shape.chunks * blockIdx.x / gridDim.x;
  const int64_t last_chunk = shape.chunks * (blockIdx.x + 1) / gridDim.x;
  for (int64_t chunk = first_chunk; chunk < last_chunk; ++chunk) {
    const RatChunk c = p.a.table[chunk];
    const int64_t length = c.end - c.begin, pieces = (length + S - 1) / S;
    const bool alone = c.first >= c.slot;
    float start_k[E], start_v[E], state_k[E], state_v[E];
    load_lane(start_k, c.from >= 0 ? at(p.a.running_k, c.from, head) : nullptr, dim, false, active && c.from >= 0);
    load_lane(start_v, c.from >= 0 ? at(p.a.running_v, c.from, head) : nullptr, dim, false, active && c.from >= 0);
#pragma unroll
    for (int e = 0; e < E; ++e) {
      state_k[e] = start_k[e];
      state_v[e] = start_v[e];
    }
    for (int64_t i = 0; active && i + 1 < pieces; ++i) {
      for (int j = 0; j < S; ++j) {
        Token<T, E> token;
        token.load(p, columns, c.begin + i * S + j, own, of_group, bias, true);
        token.step(state_k, state_v);
      }
      // Starts of pieces lie S tokens or more apart, in one chunk and between chunks, so their rows differ.
      float* state = p.s.states + (c.begin + (i + 1) * S) / S * 2 * shape.heads * dim + own;
      store_lane(state, state_k, dim, false);
      store_lane(state + shape.heads * dim, state_v, dim, false);
    }

    // What flows from later tokens into the state after the current one: at the last token from the end's
    // readers and the final state, then flow <- g (own gradient + flow).
    float flow_k[E], flow_v[E];
    load_lane(flow_k, at(p.a.d_ends_k, c.slot, head), dim, false, active);
    load_lane(flow_v, at(p.a.d_ends_v, c.slot, head), dim, false, active);
    if (p.a.cos) rotate_lane(flow_k, p.a.cos, p.a.sin, c.position, dim, true, mine);
    if (p.a.d_final_k.data && c.to >= 0 && active) {
      float x[E];
      load_lane(x, at(p.a.d_final_k, c.to, head), dim, false);
#pragma unroll
      for (int e = 0; e < E; ++e) flow_k[e] += x[e];
      load_lane(x, at(p.a.d_final_v, c.to, head), dim, false);
#pragma unroll
      for (int e = 0; e < E; ++e) flow_v[e] += x[e];
    }

    for (int64_t i = pieces - 1; i >= 0; --i) {
      const int64_t n0 = c.begin + i * S;
      const int count = static_cast<int>(length - i * S < S ? length - i * S : S);
      if (active) {
        if (i > 0) {
          const float* state = p.s.states + n0 / S * 2 * shape.heads * dim + own;
          load_lane(state_k, state, dim, false);
          load_lane(state_v, state + shape.heads * dim, dim, false);
        } else {
#pragma unroll
          for (int e = 0; e < E; ++e) {
            state_k[e] = start_k[e];
            state_v[e] = start_v[e];
          }
        }
        float first_k[E], first_v[E];  // the state before the piece
#pragma unroll
        for (int e = 0; e < E; ++e) {
          first_k[e] = state_k[e];
          first_v[e] = state_v[e];
        }
#pragma unroll 4
        for (int j = 0; j < S; ++j) {
          Token<T, E> token;
          token.load(p, columns, j < count ? n0 + j : n0, own, of_group, bias, j < count);
          token.step(state_k, state_v);
          put(mine + j * 64 * E, state_k);
          put(mine + j * 64 * E + 32 * E, state_v);
        }
        Ahead<T, E> next;
        next.load(p, columns, n0 + count - 1, head, of_group, bias);
        get(mine + (count - 1) * 64 * E, state_k);
        get(mine + (count - 1) * 64 * E + 32 * E, state_v);
#pragma unroll 2
        for (int j = count - 1; j >= 0; --j) {
          const int64_t n = n0 + j;
          const Ahead<T, E> now = next;
          if (j > 0) next.load(p, columns, n - 1, head, of_group, bias);
          const Token<T, E>& token = now.token;
          const auto &q = now.q, &y = now.y, &d_out = now.d_out;
          float z[E], dy[E], before_k[E], before_v[E];
          if (j > 0) {
            get(mine + (j - 1) * 64 * E, before_k);
            get(mine + (j - 1) * 64 * E + 32 * E, before_v);
          } else {
#pragma unroll
            for (int e = 0; e < E; ++e) {
              before_k[e] = first_k[e];
              before_v[e] = first_v[e];
            }
          }
#pragma unroll
          for (int e = 0; e < E; ++e) {
            z[e] = sigmoid(now.z[e]);
            dy[e] = z[e] * d_out[e];
          }
          const float probability = expf(dot(q, state_k) * scale - now.lse);
          // A softmax over the local entry alone has no gradient, exactly; delta from a rounded y would give some.
          const float d_score = alone ? 0.0f : probability * (dot(dy, state_v) - dot(dy, y)) * scale;
          T* d_row = at(p.a.d_proj, n);
          float dk[E], dq[E], dv[E], dg[E];
#pragma unroll
          for (int e = 0; e < E; ++e) {
            const float g = token.g[e];
            const float lambda = d_score * q[e] + flow_k[e], mu = probability * dy[e] + flow_v[e];
            dk[e] = (1 - g) * lambda;
            dq[e] = d_score * state_k[e];
            dv[e] = (1 - g) * mu;
            dg[e] = g * (1 - g) * (lambda * (before_k[e] - token.k[e]) + mu * (before_v[e] - token.v[e]));
            d_bias[e] += dg[e];
            flow_k[e] = g * lambda;
            flow_v[e] = g * mu;
            z[e] = z[e] * (1 - z[e]) * d_out[e] * y[e];
            state_k[e] = before_k[e];
            state_v[e] = before_v[e];
          }
          put(mine + j * 64 * E, dk);  // the state after this token is no longer needed
          put(mine + j * 64 * E + 32 * E, dq);
          store_lane(d_row + columns.v + own, dv, dim, p.vector);
          store_lane(d_row + columns.g + own, dg, dim, p.vector);
          store_lane(d_row + columns.z + own, z, dim, p.vector);
        }
      }
      __syncthreads();
      const int64_t group_heads = (shape.heads - group + shape.groups - 1) / shape.groups;
      const int64_t heads_here = group_heads - int64_t{blockIdx.z} * kMaxWarps;
      for (int x = threadIdx.x; x < count * 2 * 32 * E; x += blockDim.x) {
        const int channel = x % 32 * E + x / 32 % E, unit = x / (32 * E);  // unit: 2 token + (0: dk', 1: dq)
        if (channel >= dim) continue;
        float sum = 0;
        for (int w = 0; w < warps && w < heads_here; ++w) sum += shared[w * S * 64 * E + x];
        const int64_t row = (int64_t{blockIdx.z} * shape.tokens + n0) * 2 + unit;
        p.s.sums[(row * shape.groups + group) * dim + channel] = sum;
      }
      __syncthreads();
    }
    if (p.a.d_running_k.data && c.from >= 0 && active) {
      store_lane(at(p.a.d_running_k, c.from, head), flow_k, dim, false);
      store_lane(at(p.a.d_running_v, c.from, head), flow_v, dim, false);
    }
  }
  if (active) store_lane(p.s.d_bias + blockIdx.x * shape.heads * dim + own, d_bias, dim, false);
}

// dk' and dq of one token a block.
template <class T>
__global__ void finish_kernel(Kernel<T> p, int64_t slices) {
  const RatShape& shape = p.a.shape;
  const RatColumns columns(shape);
  const int64_t n = blockIdx.x, width = shape.groups * shape.dim, half = shape.dim / 2;
  const int64_t position = p.s.rows.position[n];
  if (position < 0) return;
  for (int64_t i = threadIdx.x; i < width; i += blockDim.x) {
    const int64_t c = i % shape.dim;
    float dk = 0, dq = 0;
    for (int64_t s = 0; s < slices; ++s) {
      const float* sums = p.s.sums + (s * shape.tokens + n) * 2 * width + i;
      dk += sums[0];
      dq += sums[width];
    }
    const float* rotated = p.s.dq + n * width + i;
    if (p.a.cos && c < 2 * half) {
      const bool low = c < half;
      const int64_t angle = position * half + (low ? c : c - half);
      const float partner = low ? rotated[half] : rotated[-half];
      dq += *rotated * p.a.cos[angle] + (low ? partner : -partner) * p.a.sin[angle];
    } else {
      dq += *rotated;
    }
    at(p.a.d_proj, n)[columns.q + i] = from_float<T>(dq);
    at(p.a.d_proj, n)[columns.k + i] = from_float<T>(dk);
  }
}

template <class T>
void run(const RatBackward<T>& a, void* scratch_memory, void* stream_pointer) {
  const RatShape& shape = a.shape;
  if (shape.heads == 0 || shape.dim == 0) return;
  const int64_t width = shape.heads * shape.dim;
  if (shape.tokens == 0 || shape.chunks == 0) {
    zero_async(a.d_gate_bias, width * 4, "rat_backward (bias)", stream_pointer);
  }
  if (shape.tokens == 0) return;
  check_dim("rat_backward", shape.dim);
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  Scratch scratch(scratch_memory);
  const Pieces<T> s(scratch, shape);
  const bool vector =
      rat_vector<T>(shape) && aligned16(a.proj) && aligned16(a.y) && aligned16(a.d_out) && aligned16(a.d_proj);
  const Kernel<T> p{a, s, vector};
  const auto tokens = static_cast<unsigned>(shape.tokens);
  rat_rows(shape, a.table, s.rows, stream);
  gate_kernel<<<tokens, 256, 0, stream>>>(p);
  check_launch("rat_backward (gate)");
  if (shape.chunks == 0) return;
  rat_rotate_queries(shape, s.rows, a.cos, a.sin, a.proj, s.queries, stream);

  IntervalBackward<T, float> b;
  b.queries = shape.tokens, b.keys = shape.ends, b.dim = shape.dim;
  b.heads = b.kv_heads = shape.heads, b.q_heads = shape.groups;
  b.scale = 1.0f / std::sqrt(static_cast<float>(shape.dim));
  b.begin = s.rows.first, b.end = s.rows.slot, b.lse = a.lse;
  b.q = {s.queries, shape.groups * shape.dim, shape.dim};
  b.k = a.ends_k, b.v = a.ends_v;
  b.o = {a.y.data, a.y.row, shape.dim};
  b.d_o = {s.dy, width, shape.dim};
  b.dq = {s.dq, shape.groups * shape.dim, shape.dim};
  b.dk = a.d_ends_k, b.dv = a.d_ends_v, b.accumulate = true;
  interval_attention_backward(b, stream);

  const int64_t per_group = heads_per_group(shape);
  const auto warps = static_cast<unsigned>(per_group < kMaxWarps ? per_group : kMaxWarps);
  const dim3 grid(static_cast<unsigned>(runs(shape)), static_cast<unsigned>(shape.groups),
                  static_cast<unsigned>(slices(shape)));
  with_lane_channels(shape.dim, [&](auto e) {
    constexpr int E = e.value;
    const int64_t bytes = int64_t{warps} * kPiece<E> * 64 * E * 4;
    allow_shared_memory(reinterpret_cast<const void*>(chunk_kernel<T, E>), bytes, "rat_backward (chunks)");
    chunk_kernel<T, E><<<grid, warps * 32, bytes, stream>>>(p);
    check_launch("rat_backward (chunks)");
  });
  finish_kernel<<<tokens, 256, 0, stream>>>(p, slices(shape));
  check_launch("rat_backward (finish)");
  column_sum(s.d_bias, runs(shape), width, a.d_gate_bias, stream);
}

}  // namespace rat_backward_file

// Per token (counting the rotated queries and dy as fp32): 12 bytes of rows, 4 D of dy, 8 G p of queries and dq,
// 8 G p of sums for each 8 heads a group, 8 D / S of states with S = 16, 8 or 4 tokens a piece for heads up to
// 64, 128 or 256; and up to 4 KB a channel for the gate bias. 14 KB a token at 16 heads of 128 in 2 groups.
int64_t rat_backward_scratch_bytes(const RatShape& shape) {
  Scratch scratch;
  rat_backward_file::Pieces<float>(scratch, shape);
  return scratch.used();
}
void rat_backward(const RatBackward<float>& a, void* scratch, void* stream) {
  rat_backward_file::run(a, scratch, stream);
}
void rat_backward(const RatBackward<bf16>& a, void* scratch, void* stream) {
  rat_backward_file::run(a, scratch, stream);
}

}  // namespace rattan::kernels::cuda
