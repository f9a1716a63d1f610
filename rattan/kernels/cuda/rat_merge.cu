// Forward, after the attention: the recurrence of v again (cheaper than keeping it), the local entry merged into what
// the attention over the ends gave, the output gate.
#include <cmath>

#include "rattan/kernels/cuda/rat_piece.cuh"

namespace rattan::kernels::cuda {

namespace rat_merge_file {

template <class T>
struct Merge {
  RatForward<T> a;
  ChunkRows<const T> o;
  ChunkRows<const float> lse_ends;
  const float* local;
  ChunkRows<T> y;
};

// Where the tokens of one head of a piece lie: the first of them; rows apart.
template <class T>
struct Places {
  const T *gate, *value, *z, *o;
  T *out, *y;
  int proj_row, o_row, out_row, y_row;
};

// One head of one piece. A lane has the scores of token lane mod 16; `weights` holds what it makes of them.
template <bool kPairs, bool kFull, class T>
__device__ __forceinline__ void merge_head(Places<T> at, int count, float (&bias2)[kChannels<T>],
                                           float (&v)[kChannels<T>], float local, float ends, float* lse, int64_t heads,
                                           float2* weights, const Mine<T>& mine) {
  constexpr int E = kChannels<T>;
  unsigned raw_g[kRatPiece], raw_v[kRatPiece], raw_z[kRatPiece], raw_o[kRatPiece];
  load_piece<kPairs, kFull>(raw_g, at.gate, at.proj_row, count, mine);
  load_piece<kPairs, kFull>(raw_v, at.value, at.proj_row, count, mine);
  load_piece<kPairs, kFull>(raw_z, at.z, at.proj_row, count, mine);
  load_piece<kPairs, kFull>(raw_o, at.o, at.o_row, count, mine);
#pragma unroll
  for (int e = 0; e < E; ++e) bias2[e] *= kLog2e;
  const int lane = threadIdx.x % 32;
  const float top = fmaxf(local, ends);
  const float w_ends = expf(ends - top), w_local = expf(local - top), total = w_ends + w_local;
  if (lane < count) {
    weights[lane] = make_float2(w_ends / total, w_local / total);
    if (lse && threadIdx.x < 32) lse[lane * heads] = top + logf(total);
  }
  __syncwarp();
#pragma unroll
  for (int j = 0; j < kRatPiece; ++j) {
    if (!kFull && j >= count) break;
    float g[E], x[E], z[E], o[E], y[E];
    unpack<T>(g, raw_g[j]);
    unpack<T>(x, raw_v[j]);
    unpack<T>(z, raw_z[j]);
    unpack<T>(o, raw_o[j]);
    const float2 w = weights[j];
#pragma unroll
    for (int e = 0; e < E; ++e) {
      v[e] += closed(g[e], bias2[e]) * (x[e] - v[e]);
      y[e] = w.x * o[e] + w.y * v[e];
      o[e] = fast_sigmoid(z[e]) * y[e];
    }
    store_raw<kPairs>(at.out, pack<T>(o), mine);
    at.out += at.out_row;
    if (!at.y) continue;
    store_raw<kPairs>(at.y, pack<T>(y), mine);
    at.y += at.y_row;
  }
  __syncwarp();  // the weights are read
}

template <class T, bool kPairs>
__global__ void __launch_bounds__(kMaxThreads<T>, (kPairs ? 512 : 256) / kMaxThreads<T>) merge_kernel(Merge<T> p) {
  constexpr int E = kChannels<T>;
  __shared__ float2 weights[kMaxThreads<T> / 32][kRatPiece];
  const RatShape& shape = p.a.shape;
  const RatColumns columns(shape);
  const int dim = static_cast<int>(shape.dim);
  const auto heads = static_cast<unsigned>(shape.heads);
  const int64_t chunk = blockIdx.x / heads, head = blockIdx.x % heads;
  const RatChunk c = p.a.table[chunk];
  const Mine<T> mine(dim);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, length = c.end - c.begin;
  Places<T> places;
  places.proj_row = static_cast<int>(p.a.proj.row), places.o_row = static_cast<int>(p.o.token);
  places.out_row = static_cast<int>(p.a.out.row), places.y_row = static_cast<int>(p.y.token);

  const int64_t own = head * dim + mine.channel;
  float v[E] = {};
  if (c.from >= 0) load_floats<false>(v, at(p.a.running_v, c.from, head) + mine.channel, mine);
  for (int l0 = 0; l0 < length; l0 += kRatPiece) {
    const int count = min(kRatPiece, length - l0), l = l0 + min(lane, count - 1);
    const int64_t n = c.begin + l0;
    places.z = at(p.a.proj, n) + columns.z + own;
    places.value = places.z - columns.z + columns.v, places.gate = places.z - columns.z + columns.g;
    places.o = at(p.o, c, chunk, head, l0) + mine.channel;
    places.out = at(p.a.out, n) + own;
    places.y = p.y.data ? at(p.y, c, chunk, head, l0) + mine.channel : nullptr;
    float bias2[E];
    load_floats<kPairs>(bias2, p.a.gate_bias + own, mine);
    const float local = p.local[(c.begin + l) * shape.heads + head];
    const float ends = *at(p.lse_ends, c, chunk, head, l);
    float* lse = p.a.lse ? p.a.lse + n * shape.heads + head : nullptr;
    if (count == kRatPiece) {
      merge_head<kPairs, true>(places, count, bias2, v, local, ends, lse, shape.heads, weights[warp], mine);
    } else {
      merge_head<kPairs, false>(places, count, bias2, v, local, ends, lse, shape.heads, weights[warp], mine);
    }
  }
}

}  // namespace rat_merge_file

template <class T>
void rat_merge(const RatForward<T>& a, const ChunkRows<const T>& o, const ChunkRows<const float>& lse_ends,
               const float* local, const ChunkRows<T>& y, cudaStream_t stream) {
  using namespace rat_merge_file;
  const RatShape& s = a.shape;
  rat_check_rows({a.proj.row, o.token, y.token, a.out.row});
  const Merge<T> p{a, o, lse_ends, local, y};
  const bool pairs =
      s.dim % 2 == 0 && paired(a.proj) && paired(o) && paired(a.out) && paired(y) && paired(a.gate_bias);
  const auto blocks = static_cast<unsigned>(s.chunks * s.heads);
  with_pairs<T>(pairs, [&](auto together) {
    merge_kernel<T, decltype(together)::value><<<blocks, rat_threads<T>(s.dim), 0, stream>>>(p);
  });
  check_launch("rat_forward (merge)");
}

template void rat_merge(const RatForward<float>&, const ChunkRows<const float>&, const ChunkRows<const float>&,
                        const float*, const ChunkRows<float>&, cudaStream_t);
template void rat_merge(const RatForward<bf16>&, const ChunkRows<const bf16>&, const ChunkRows<const float>&,
                        const float*, const ChunkRows<bf16>&, cudaStream_t);

}  // namespace rattan::kernels::cuda
