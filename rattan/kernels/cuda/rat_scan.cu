// Forward, before the attention: the recurrence over a chunk, its end, the local entry of each token. While a block
// works on one head of a piece, the streams of the next are on their way into shared memory.
#include <algorithm>
#include <type_traits>

#include "rattan/kernels/cuda/rat_piece.cuh"

namespace rattan::kernels::cuda {

namespace rat_scan_file {

constexpr int kHeads = 8;  // a block, at most

template <class T>
struct Scan {
  RatForward<T> a;
  float* local;
  ChunkRows<T> values;
  int heads;   // a block
  int slices;  // blocks that share the heads of a group
  bool final;  // write the last states
};

// Shared memory of a block, each thread's part its own but for `streams` and `parts` (and `ends` at last).
template <class T, int kThreads>
struct Shared {
  static constexpr int kWide = kThreads * kChannels<T>;  // a row of a stream
  T* streams;     // [2, 2, 16, kWide]: g' and v of a head of a piece, and of the next
  float* ends;    // [heads, kWide]: running key
  float* parts;   // [heads, warps, 16]: the local scores of a piece, as each warp adds them up
  float* values;  // as `ends`: running value, if a chunk has more than one piece
  static int64_t bytes(int heads, int warps, bool pieces) {
    return 4 * kRatPiece * 4 * kThreads + int64_t{4} * heads * ((pieces ? 2 : 1) * kWide + warps * kRatPiece);
  }
  __device__ Shared(char* memory, int heads) {
    streams = reinterpret_cast<T*>(memory);
    ends = reinterpret_cast<float*>(memory + 4 * kRatPiece * 4 * kThreads);
    parts = ends + heads * kWide;
    values = parts + heads * static_cast<int>(blockDim.x) / 32 * kRatPiece;
  }
  __device__ T* rows(int turn, int number) const { return streams + (turn * 2 + number) * kRatPiece * kWide; }
  // This thread's channels of the streams of `turn`, [2, 16], kThreads words apart.
  __device__ const unsigned* words(int turn) const {
    return reinterpret_cast<const unsigned*>(rows(turn, 0)) + threadIdx.x;
  }
};

// One head of one piece: k and v go from the state before it to the state after it. Leaves the parts of the scores.
template <int kThreads, bool kVector, bool kFull, class T>
__device__ __forceinline__ void scan_head(const unsigned* words, int count, float (&bias2)[kChannels<T>],
                                          const unsigned (&keys)[kRatPiece], const unsigned (&queries)[kRatPiece],
                                          float (&k)[kChannels<T>], float (&v)[kChannels<T>], float* part, T* kept,
                                          int kept_row, const Mine<T>& mine) {
  constexpr int E = kChannels<T>;
#pragma unroll
  for (int e = 0; e < E; ++e) bias2[e] *= kLog2e;
  float dots[8];
#pragma unroll
  for (int j = 0; j < kRatPiece; ++j) {
    float dot = 0;
    if (kFull || j < count) {
      float g[E], x[E], y[E], q[E];
      unpack<T>(g, words[j * kThreads]);
      unpack<T>(x, keys[j]);
      unpack<T>(y, words[(kRatPiece + j) * kThreads]);
      unpack<T>(q, queries[j]);
#pragma unroll
      for (int e = 0; e < E; ++e) {
        const float h = closed(g[e], bias2[e]);
        k[e] += h * (x[e] - k[e]);
        v[e] += h * (y[e] - v[e]);
        dot += q[e] * k[e];
      }
      if (kept) {
        store_raw<kVector>(kept, pack<T>(v), mine);
        kept += kept_row;
      }
    }
    if (j < 8) {
      dots[j] = dot;
    } else {
      dots[j - 8] = fold(dots[j - 8], dot, 8);
    }
  }
  const float sum = fold_eight(dots);
  const int lane = threadIdx.x % 32;
  if (lane < kRatPiece) part[threadIdx.x / 32 * kRatPiece + lane] = sum;
}

// blockIdx.x: chunk, slice of a group's heads, group.
template <class T, bool kVector, int kThreads>
__global__ void __launch_bounds__(kThreads, kVector ? 640 / kThreads : 1) scan_kernel(Scan<T> p) {
  constexpr int E = kChannels<T>, kWide = Shared<T, kThreads>::kWide;
  extern __shared__ __align__(16) char memory[];
  const RatShape& shape = p.a.shape;
  const RatColumns columns(shape);
  const int dim = static_cast<int>(shape.dim), groups = static_cast<int>(shape.groups);
  const auto units = static_cast<unsigned>(groups * p.slices);
  const int unit = static_cast<int>(blockIdx.x % units), group = unit % groups;
  const int64_t chunk = blockIdx.x / units;
  const int first = group + unit / groups * p.heads * groups, all = static_cast<int>(shape.heads);
  const int heads = first >= all ? 0 : min(p.heads, (all - first + groups - 1) / groups);
  if (heads == 0) return;
  const RatChunk c = p.a.table[chunk];
  const Mine<T> mine(dim);
  const int warps = static_cast<int>(blockDim.x) / 32, mark = static_cast<int>(threadIdx.x) * E;
  const int length = c.end - c.begin, row = static_cast<int>(p.a.proj.row);
  const Shared<T, kThreads> shared(memory, p.heads);
  const Copier<T, kVector, kWide> copier(dim);
  clear_beyond<kWide>(shared.streams, 4 * kRatPiece, mine);

  int turn = 0;
  const auto fetch = [&](int l0, int i, int to) {
    const T* token = at(p.a.proj, c.begin + l0) + int64_t{first + i * groups} * dim;
    const int count = min(kRatPiece, length - l0);
    copier.copy(shared.rows(to, 0), token + columns.g, row, count, mine);
    copier.copy(shared.rows(to, 1), token + columns.v, row, count, mine);
  };
  fetch(0, 0, 0);
  for (int l0 = 0; l0 < length; l0 += kRatPiece) {
    const int count = min(kRatPiece, length - l0);
    const bool last = l0 + kRatPiece >= length;
    const T* token = at(p.a.proj, c.begin + l0) + int64_t{group} * dim + mine.channel;
    unsigned keys[kRatPiece], queries[kRatPiece];
    if (count == kRatPiece) {
      load_piece<kVector, true>(keys, token + columns.k, row, count, mine);
      load_piece<kVector, true>(queries, token + columns.q, row, count, mine);
    } else {
      load_piece<kVector, false>(keys, token + columns.k, row, count, mine);
      load_piece<kVector, false>(queries, token + columns.q, row, count, mine);
    }
    if (!mine.active) {
#pragma unroll
      for (int j = 0; j < kRatPiece; ++j) keys[j] = queries[j] = 0;
    }
    for (int i = 0; i < heads; ++i, turn ^= 1) {
      const int head = first + i * groups;
      float bias2[E], k[E], v[E];
      load_floats<kVector>(bias2, p.a.gate_bias + int64_t{head} * dim + mine.channel, mine);
      if (l0 == 0) {
        load_running(k, p.a.running_k, c.from, head, mine);
        load_running(v, p.a.running_v, c.from, head, mine);
      } else {
#pragma unroll
        for (int e = 0; e < E; ++e) {
          k[e] = shared.ends[i * kWide + mark + e];
          v[e] = shared.values[i * kWide + mark + e];
        }
      }
      copier.wait();
      __syncthreads();                  // this head's streams are there; those of the head before are read
      const bool same = i + 1 < heads;  // the next head belongs to this piece
      if (same || !last) fetch(same ? l0 : l0 + kRatPiece, same ? i + 1 : 0, turn ^ 1);
      float* part = shared.parts + i * warps * kRatPiece;
      T* kept = p.values.data ? at(p.values, c, chunk, head, l0) + mine.channel : nullptr;
      const int kept_row = static_cast<int>(p.values.token);
      const unsigned* words = shared.words(turn);
      if (count == kRatPiece) {
        scan_head<kThreads, kVector, true>(words, count, bias2, keys, queries, k, v, part, kept, kept_row, mine);
      } else {
        scan_head<kThreads, kVector, false>(words, count, bias2, keys, queries, k, v, part, kept, kept_row, mine);
      }
#pragma unroll
      for (int e = 0; e < E; ++e) {
        shared.ends[i * kWide + mark + e] = k[e];
        if (!last) shared.values[i * kWide + mark + e] = v[e];
      }
      if (!last) continue;
      store_raw<kVector>(at(p.a.ends_v, c.slot, head) + mine.channel, pack<T>(v), mine);
      if (p.final && c.to >= 0) {
        store_floats<false>(at(p.a.final_k, c.to, head) + mine.channel, k, mine);
        store_floats<false>(at(p.a.final_v, c.to, head) + mine.channel, v, mine);
      }
    }
    __syncthreads();
    const float scale = rsqrtf(static_cast<float>(dim));
    for (int x = static_cast<int>(threadIdx.x); x < count * heads; x += static_cast<int>(blockDim.x)) {
      const int i = x % heads, l = x / heads;
      float sum = 0;
#pragma unroll 1
      for (int w = 0; w < warps; ++w) sum += shared.parts[(i * warps + w) * kRatPiece + l];
      p.local[(c.begin + l0 + l) * shape.heads + first + i * groups] = sum * scale;
    }
    if (!last) __syncthreads();
  }
  const Rotation<T> rotation(p.a.cos, p.a.sin, c.position, dim, false, mine);
  for (int i = 0; i < heads; ++i) {
    float k[E], partners[E];
    load_floats<kVector>(k, shared.ends + i * kWide + mine.channel, mine);
    rotation.template load_partners<kVector>(partners, shared.ends + i * kWide);
    rotation.apply(k, partners);
    store_raw<kVector>(at(p.a.ends_k, c.slot, first + i * groups) + mine.channel, pack<T>(k), mine);
  }
}

}  // namespace rat_scan_file

template <class T>
void rat_scan(const RatForward<T>& a, float* local, const ChunkRows<T>& values, cudaStream_t stream) {
  using namespace rat_scan_file;
  const RatShape& s = a.shape;
  rat_check_rows({a.proj.row, values.token});
  const int64_t group = blocks_for(s.heads, s.groups), few = s.chunks * s.heads / 4096;  // fewer heads fill a device
  const auto heads = static_cast<int>(std::min({group, std::max<int64_t>(few, 1), int64_t{kHeads}}));
  const auto slices = static_cast<int>(blocks_for(group, heads));
  const Scan<T> p{a, local, values, heads, slices, a.final_k.data && !updates_in_place(a)};
  const bool vector =
      vector_rows(s.dim, a.proj) && paired(a.ends_k) && paired(a.ends_v) && paired(values) && paired(a.gate_bias);
  const int threads = rat_threads<T>(s.dim);
  const auto blocks = static_cast<unsigned>(s.chunks * s.groups * p.slices);
  with_pairs<T>(vector, [&](auto together) {
    constexpr bool kVector = decltype(together)::value;
    const auto launch = [&](auto most) {
      constexpr int kThreads = most.value;
      constexpr auto kernel = scan_kernel<T, kVector, kThreads>;
      const int64_t bytes = Shared<T, kThreads>::bytes(heads, threads / 32, s.max_chunk > kRatPiece);
      use_shared_memory(kernel, bytes, "rat_forward (scan)");
      kernel<<<blocks, threads, static_cast<std::size_t>(bytes), stream>>>(p);
    };
    if (threads <= kMaxThreads<T> / 2) {
      launch(std::integral_constant<int, kMaxThreads<T> / 2>());
    } else {
      launch(std::integral_constant<int, kMaxThreads<T>>());
    }
  });
  check_launch("rat_forward (scan)");
}

template void rat_scan(const RatForward<float>&, float*, const ChunkRows<float>&, cudaStream_t);
template void rat_scan(const RatForward<bf16>&, float*, const ChunkRows<bf16>&, cudaStream_t);

}  // namespace rattan::kernels::cuda
