// Forward, before the attention: the recurrence over a chunk, its end, the local score of each token. And after all
// else, the last running states.
#include "rattan/kernels/cuda/rat_piece.cuh"

namespace rattan::kernels::cuda {

namespace rat_scan_file {

// The heads of a block read rows of their streams at the same time and share the keys and queries of their group.
constexpr int kThreads = 256;

template <class T>
struct Scan {
  RatForward<T> a;
  float* local;
  ChunkRows<T> values;
  int slices;  // blocks that share the heads of a group
  bool final;  // write the last states
};

// Shared memory of a block of x threads a head and y heads.
template <class T>
struct Shared {
  uint2* keys;   // [16, x]: k', q
  float* ends;   // [y, x, E]: the last running keys
  float* parts;  // [y, warps of x, 16]: the local scores of a piece, as each warp adds them up
  static int64_t bytes(int x, int y) {
    return int64_t{x} * (kRatPiece * 8 + y * 4 * kChannels<T>) + y * x / 32 * kRatPiece * 4;
  }
  __device__ explicit Shared(void* memory) {
    const int x = static_cast<int>(blockDim.x), y = static_cast<int>(blockDim.y);
    keys = static_cast<uint2*>(memory);
    ends = reinterpret_cast<float*>(keys + kRatPiece * x);
    parts = ends + x * y * kChannels<T>;
  }
};

// The running state a chunk starts from.
template <class T>
__device__ void load_running(float (&x)[kChannels<T>], const HeadsRef<const float>& states, int row, int64_t head,
                             const Mine<T>& mine) {
  if (row >= 0) {
    load_floats<false>(x, at(states, row, head) + mine.channel, mine);
  } else {
#pragma unroll
    for (float& e : x) e = 0;
  }
}

// One head of one piece: k and v go from the state before it to the state after it. Leaves the parts of the scores.
template <bool kPairs, bool kFull, bool kKeep, class T>
__device__ __forceinline__ void scan_head(const unsigned (&raw_g)[kRatPiece], const unsigned (&raw_v)[kRatPiece],
                                          const uint2* keys, int count, const float (&bias2)[kChannels<T>],
                                          float (&k)[kChannels<T>], float (&v)[kChannels<T>], float* part, T* kept,
                                          int kept_row, const Mine<T>& mine) {
  constexpr int E = kChannels<T>;
  float dots[8];
#pragma unroll
  for (int j = 0; j < kRatPiece; ++j) {
    float dot = 0;
    if (kFull || j < count) {
      float g[E], x[E], y[E], q[E];
      const uint2 key = keys[j * blockDim.x];
      unpack<T>(g, raw_g[j]);
      unpack<T>(x, key.x);
      unpack<T>(y, raw_v[j]);
      unpack<T>(q, key.y);
#pragma unroll
      for (int e = 0; e < E; ++e) {
        const float h = closed(g[e], bias2[e]);
        k[e] += h * (x[e] - k[e]);
        v[e] += h * (y[e] - v[e]);
        dot += q[e] * k[e];
      }
      if constexpr (kKeep) {
        store_raw<kPairs>(kept, pack<T>(v), mine);
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
template <class T, bool kPairs, bool kKeep>
__global__ void __launch_bounds__(kThreads, kPairs ? 3 : 1) scan_kernel(Scan<T> p) {
  constexpr int E = kChannels<T>;
  extern __shared__ __align__(16) char memory[];
  const RatShape& shape = p.a.shape;
  const RatColumns columns(shape);
  const int dim = static_cast<int>(shape.dim), groups = static_cast<int>(shape.groups);
  const auto units = static_cast<unsigned>(groups * p.slices);
  const int unit = static_cast<int>(blockIdx.x % units), group = unit % groups;
  const int64_t chunk = blockIdx.x / units;
  const int x = static_cast<int>(threadIdx.x), y = static_cast<int>(threadIdx.y);
  const int wide = static_cast<int>(blockDim.x) * E, warps = static_cast<int>(blockDim.x) / 32;
  const int head = group + (unit / groups * static_cast<int>(blockDim.y) + y) * groups;
  const bool there = head < shape.heads;
  const RatChunk c = p.a.table[chunk];
  const Mine<T> mine(dim);
  const int length = c.end - c.begin, row = static_cast<int>(p.a.proj.row);
  const int64_t of_group = int64_t{group} * dim + mine.channel, own = int64_t{there ? head : group} * dim + mine.channel;
  const Shared<T> shared(memory);
  const uint2* keys = shared.keys + x;
  float* part = shared.parts + y * warps * kRatPiece;
  float* end = shared.ends + y * wide;
  const float scale = rsqrtf(static_cast<float>(dim));

  float bias2[E], k[E], v[E];
  load_floats<kPairs>(bias2, p.a.gate_bias + own, mine);
  load_running(k, p.a.running_k, there ? c.from : -1, head, mine);
  load_running(v, p.a.running_v, there ? c.from : -1, head, mine);
  for (int l0 = 0; l0 < length; l0 += kRatPiece) {
    const int count = min(kRatPiece, length - l0);
    const T* token = at(p.a.proj, c.begin + l0);
    unsigned raw_g[kRatPiece], raw_v[kRatPiece];
    if (count == kRatPiece) {
      load_piece<kPairs, true>(raw_g, token + columns.g + own, row, count, mine);
      load_piece<kPairs, true>(raw_v, token + columns.v + own, row, count, mine);
    } else {
      load_piece<kPairs, false>(raw_g, token + columns.g + own, row, count, mine);
      load_piece<kPairs, false>(raw_v, token + columns.v + own, row, count, mine);
    }
#pragma unroll 4
    for (int j = y; j < count; j += static_cast<int>(blockDim.y)) {
      const T* shared_token = token + int64_t{j} * row + of_group;
      uint2 key;
      key.x = load_raw<kPairs>(shared_token + columns.k, mine);
      key.y = load_raw<kPairs>(shared_token + columns.q, mine);
      if (!mine.active) key.y = 0;  // adds nothing to the score
      shared.keys[j * blockDim.x + x] = key;
    }
    if (l0 == 0) {
#pragma unroll
      for (int e = 0; e < E; ++e) bias2[e] *= kLog2e;
    }
    __syncthreads();
    if (there) {
      T* kept = kKeep ? at(p.values, c, chunk, head, l0) + mine.channel : nullptr;
      const int kept_row = static_cast<int>(p.values.token);
      if (count == kRatPiece) {
        scan_head<kPairs, true, kKeep>(raw_g, raw_v, keys, count, bias2, k, v, part, kept, kept_row, mine);
      } else {
        scan_head<kPairs, false, kKeep>(raw_g, raw_v, keys, count, bias2, k, v, part, kept, kept_row, mine);
      }
    }
    if (l0 + kRatPiece >= length) {
#pragma unroll
      for (int e = 0; e < E; ++e) end[x * E + e] = k[e];
    }
    __syncthreads();
    if (there && x < count) {
      float sum = 0;
      for (int w = 0; w < warps; ++w) sum += part[w * kRatPiece + x];
      p.local[(c.begin + l0 + x) * shape.heads + head] = sum * scale;
    }
  }
  if (!there) return;
  store_raw<kPairs>(at(p.a.ends_v, c.slot, head) + mine.channel, pack<T>(v), mine);
  if (p.final && c.to >= 0) {
    store_floats<false>(at(p.a.final_k, c.to, head) + mine.channel, k, mine);
    store_floats<false>(at(p.a.final_v, c.to, head) + mine.channel, v, mine);
  }
  const Rotation<T> rotation(p.a.cos, p.a.sin, c.position, dim, false, mine);
  float partners[E];
  rotation.template load_partners<kPairs>(partners, end);
  rotation.apply(k, partners);
  store_raw<kPairs>(at(p.a.ends_k, c.slot, head) + mine.channel, pack<T>(k), mine);
}

// blockIdx.x: a run of chunks, of which few end a sequence; blockIdx.y: head.
template <class T>
__global__ void __launch_bounds__(256) final_kernel(RatForward<T> a) {
  constexpr int E = kChannels<T>;
  const RatShape& shape = a.shape;
  const RatColumns columns(shape);
  const int dim = static_cast<int>(shape.dim);
  const int64_t head = blockIdx.y, own = head * dim, of_group = head % shape.groups * dim;
  const Mine<T> mine(dim);
  float bias2[E];
  load_floats<false>(bias2, a.gate_bias + own + mine.channel, mine);
#pragma unroll
  for (int e = 0; e < E; ++e) bias2[e] *= kLog2e;
  const int64_t first = shape.chunks * blockIdx.x / gridDim.x, last = shape.chunks * (blockIdx.x + 1) / gridDim.x;
  for (int64_t base = first; base < last; base += 32) {
    const int64_t looked = base + threadIdx.x % 32;
    unsigned found = __ballot_sync(kAllLanes, looked < last && a.table[looked].to >= 0);
    for (; found != 0; found &= found - 1) {
      const RatChunk c = a.table[base + __ffs(static_cast<int>(found)) - 1];
      float k[E], v[E];
      load_running(k, a.running_k, c.from, head, mine);
      load_running(v, a.running_v, c.from, head, mine);
#pragma unroll 4
      for (int64_t n = c.begin; n < c.end; ++n) {
        const T* token = at(a.proj, n) + mine.channel;
        float g[E], x[E], y[E];
        unpack<T>(g, load_raw<false>(token + columns.g + own, mine));
        unpack<T>(y, load_raw<false>(token + columns.v + own, mine));
        unpack<T>(x, load_raw<false>(token + columns.k + of_group, mine));
#pragma unroll
        for (int e = 0; e < E; ++e) {
          const float h = closed(g[e], bias2[e]);
          k[e] += h * (x[e] - k[e]);
          v[e] += h * (y[e] - v[e]);
        }
      }
      store_floats<false>(at(a.final_k, c.to, head) + mine.channel, k, mine);
      store_floats<false>(at(a.final_v, c.to, head) + mine.channel, v, mine);
    }
  }
}

}  // namespace rat_scan_file

// `running` must not change before all have read it.
template <class T>
bool updates_in_place(const RatForward<T>& a) {
  return a.final_k.data == a.running_k.data || a.final_v.data == a.running_v.data;
}

template <class T>
void rat_scan(const RatForward<T>& a, float* local, const ChunkRows<T>& values, cudaStream_t stream) {
  using namespace rat_scan_file;
  const RatShape& s = a.shape;
  rat_check_rows({a.proj.row, values.token});
  const int64_t group = blocks_for(s.heads, s.groups);
  const int x = rat_threads<T>(s.dim), most = kThreads / x, y = group < most ? static_cast<int>(group) : most;
  const Scan<T> p{a, local, values, static_cast<int>(blocks_for(group, y)), a.final_k.data && !updates_in_place(a)};
  const bool pairs = s.dim % 4 == 0 && paired(a.proj) && paired(a.ends_k) && paired(a.ends_v) && paired(values) &&
                     paired(a.gate_bias);
  const auto blocks = static_cast<unsigned>(s.chunks * s.groups * p.slices);
  const int64_t bytes = Shared<T>::bytes(x, y);
  with_pairs<T>(pairs, [&](auto together) {
    constexpr bool kPairs = decltype(together)::value;
    const auto kernel = values.data ? scan_kernel<T, kPairs, true> : scan_kernel<T, kPairs, false>;
    use_shared_memory(kernel, bytes, "rat_forward (scan)");
    kernel<<<blocks, dim3(static_cast<unsigned>(x), static_cast<unsigned>(y)), static_cast<std::size_t>(bytes),
             stream>>>(p);
  });
  check_launch("rat_forward (scan)");
}

template <class T>
void rat_final(const RatForward<T>& a, cudaStream_t stream) {
  using namespace rat_scan_file;
  const RatShape& s = a.shape;
  if (!a.final_k.data || !updates_in_place(a)) return;
  const int64_t runs = blocks_for(s.chunks, blocks_for(s.chunks * s.heads, 4096));
  final_kernel<<<dim3(static_cast<unsigned>(runs), static_cast<unsigned>(s.heads)), rat_threads<T>(s.dim), 0, stream>>>(
      a);
  check_launch("rat_forward (final)");
}

template void rat_scan(const RatForward<float>&, float*, const ChunkRows<float>&, cudaStream_t);
template void rat_scan(const RatForward<bf16>&, float*, const ChunkRows<bf16>&, cudaStream_t);
template void rat_final(const RatForward<float>&, cudaStream_t);
template void rat_final(const RatForward<bf16>&, cudaStream_t);

}  // namespace rattan::kernels::cuda
