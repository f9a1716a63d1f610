// What the kernels of the RAT stages share on the device: a thread's channels and its accesses, the gate, sums over
// the channels of a head for 16 tokens at once.
#pragma once
#include <type_traits>

#include "rattan/kernels/cuda/device.cuh"
#include "rattan/kernels/cuda/launch.h"
#include "rattan/kernels/cuda/rat_stages.h"

namespace rattan::kernels::cuda {

// Channels a thread: four bytes of a stream.
template <class T>
constexpr int kChannels = 4 / sizeof(T);
template <class T>
constexpr int kMaxThreads = 256 / kChannels<T>;

template <class T>
int rat_threads(int64_t dim) {
  return static_cast<int>(blocks_for(dim, 32 * kChannels<T>)) * 32;
}

template <class T>
__device__ T* at(const ChunkRows<T>& rows, const RatChunk& c, int64_t chunk, int64_t head, int64_t token) {
  return rows.data + rows.begin * c.begin + rows.chunk * chunk + rows.head * head + rows.token * token;
}

// The channels of this thread. `active`: there are any; threads without read channel 0 and write nothing.
template <class T>
struct Mine {
  int channel;
  bool active, both;
  __device__ explicit Mine(int dim) {
    const int first = static_cast<int>(threadIdx.x) * kChannels<T>;
    active = first < dim;
    channel = active ? first : 0;
    both = first + 1 < dim;
  }
};

// Four bytes of a stream that is read once. kPairs: two channels of bf16 may be read and written together.
template <bool kPairs, class T>
__device__ unsigned load_raw(const T* p, const Mine<T>& mine) {
  if constexpr (kPairs || sizeof(T) == 4) {
    return __ldcs(reinterpret_cast<const unsigned*>(p));
  } else {
    return p[0].bits | (mine.both ? static_cast<unsigned>(p[1].bits) << 16 : 0u);
  }
}
template <class T>
__device__ void unpack(float (&x)[kChannels<T>], unsigned raw) {
  if constexpr (sizeof(T) == 4) {
    x[0] = __uint_as_float(raw);
  } else {
    x[0] = __uint_as_float(raw << 16);
    x[1] = __uint_as_float(raw & 0xffff0000u);
  }
}
template <class T>
__device__ unsigned pack(const float (&x)[kChannels<T>]) {
  if constexpr (sizeof(T) == 4) {
    return __float_as_uint(x[0]);
  } else {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(x[0], x[1]);
    return *reinterpret_cast<const unsigned*>(&pair);
  }
}
template <bool kPairs, class T>
__device__ void store_raw(T* p, unsigned raw, const Mine<T>& mine) {
  if constexpr (kPairs || sizeof(T) == 4) {
    if (mine.active) *reinterpret_cast<unsigned*>(p) = raw;
  } else {
    if (mine.active) p[0].bits = static_cast<uint16_t>(raw);
    if (mine.both) p[1].bits = static_cast<uint16_t>(raw >> 16);
  }
}

// fp32 rows.
template <bool kPairs, class T>
__device__ void load_floats(float (&x)[kChannels<T>], const float* p, const Mine<T>& mine) {
  if constexpr (kChannels<T> == 1) {
    x[0] = p[0];
  } else if constexpr (kPairs) {
    const float2 pair = *reinterpret_cast<const float2*>(p);
    x[0] = pair.x, x[1] = pair.y;
  } else {
    x[0] = p[0], x[1] = mine.both ? p[1] : 0.0f;
  }
}
template <bool kPairs, class T>
__device__ void store_floats(float* p, const float (&x)[kChannels<T>], const Mine<T>& mine) {
  if (!mine.active) return;
  if constexpr (kChannels<T> == 1) {
    p[0] = x[0];
  } else if constexpr (kPairs) {
    *reinterpret_cast<float2*>(p) = make_float2(x[0], x[1]);
  } else {
    p[0] = x[0];
    if (mine.both) p[1] = x[1];
  }
}

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

// The rotation by a chunk's angle (by minus it if `inverse`) as this thread's channels see it:
// x[c] cos + x[partner] sin. A channel without a partner (odd dim) stays. With pairs, partners are neighbors too.
template <class T>
struct Rotation {
  int partner[kChannels<T>];
  float cosine[kChannels<T>], sine[kChannels<T>];

  Rotation() = default;
  __device__ Rotation(const float* cos, const float* sin, int64_t position, int dim, bool inverse,
                      const Mine<T>& mine) {
    const int half = dim / 2;
#pragma unroll
    for (int e = 0; e < kChannels<T>; ++e) {
      const int c = mine.channel + (e == 0 || mine.both ? e : 0);
      const bool low = c < half, alone = !cos || c >= 2 * half;
      partner[e] = alone ? c : low ? c + half : c - half;
      const int64_t angle = position * half + (low ? c : c - half);
      cosine[e] = alone ? 1.0f : cos[angle];
      const float s = alone ? 0.0f : sin[angle];
      sine[e] = low != inverse ? -s : s;
    }
  }
  // The partners' values in a row of `dim` floats.
  template <bool kPairs>
  __device__ void load_partners(float (&x)[kChannels<T>], const float* row) const {
    if constexpr (kChannels<T> == 2 && kPairs) {
      const float2 pair = *reinterpret_cast<const float2*>(row + partner[0]);
      x[0] = pair.x, x[1] = pair.y;
    } else {
#pragma unroll
      for (int e = 0; e < kChannels<T>; ++e) x[e] = row[partner[e]];
    }
  }
  __device__ void apply(float (&x)[kChannels<T>], const float (&partners)[kChannels<T>]) const {
#pragma unroll
    for (int e = 0; e < kChannels<T>; ++e) x[e] = x[e] * cosine[e] + partners[e] * sine[e];
  }
};

// Four bytes of each of `count` tokens that lie `row` elements apart. The pointer moves on: sixteen offsets, the same
// in all turns of the caller's loop, would be kept in registers.
template <bool kPairs, bool kFull, class T>
__device__ __forceinline__ void load_piece(unsigned (&raw)[kRatPiece], const T* from, int row, int count,
                                           const Mine<T>& mine) {
#pragma unroll
  for (int j = 0; j < kRatPiece; ++j, from += row) {
    raw[j] = 0;
    if (kFull || j < count) raw[j] = load_raw<kPairs>(from, mine);
  }
}

// Copies streams of a head of a piece into shared memory, rows of kWide channels, while the block works on the head
// before: 16 bytes at a time where kVector allows them, of whichever channels. They are there after wait() and a
// barrier.
template <class T, bool kVector, int kWide>
struct Copier {
  static constexpr bool kAsync = kVector && sizeof(T) == 2;
  static constexpr int kUnit = 8;  // channels of bf16
  int token, step, channel;        // of the first unit; tokens between the units of this thread

  __device__ explicit Copier(int dim) {
    const int units = dim / kUnit > 0 ? dim / kUnit : 1, threads = static_cast<int>(blockDim.x);
    step = threads / units;
    token = static_cast<int>(threadIdx.x) < step * units ? static_cast<int>(threadIdx.x) / units : kRatPiece;
    channel = static_cast<int>(threadIdx.x) % units * kUnit;
  }
  // `from`: the head's first channel of the piece's first token.
  __device__ __forceinline__ void copy(T* to, const T* from, int row, int count, const Mine<T>& mine) const {
    if constexpr (kAsync) {
      auto address = static_cast<unsigned>(__cvta_generic_to_shared(to + token * kWide + channel));
      from += int64_t{token} * row + channel;
      const int64_t ahead = int64_t{step} * row;
#pragma unroll 4
      for (int l = token; l < count; l += step) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(from) : "memory");
        address += step * kWide * sizeof(T);
        from += ahead;
      }
    } else {
      unsigned raw[kRatPiece];
      load_piece<kVector, false>(raw, from + mine.channel, row, count, mine);
      auto* words = reinterpret_cast<unsigned*>(to) + threadIdx.x;
#pragma unroll
      for (int j = 0; j < kRatPiece; ++j) {
        if (j < count && mine.active) words[j * kWide / kChannels<T>] = raw[j];
      }
    }
  }
  __device__ static void wait() {
    if constexpr (kAsync) asm volatile("cp.async.wait_all;" ::: "memory");
  }
};
// Clears the channels beyond the head's in `rows` rows, which no copy writes: zeros add nothing to any sum.
template <int kWide, class T>
__device__ void clear_beyond(T* rows, int count, const Mine<T>& mine) {
  if (mine.active) return;
  auto* words = reinterpret_cast<unsigned*>(rows) + threadIdx.x;
  for (int j = 0; j < count; ++j) words[j * kWide / kChannels<T>] = 0;
}

__device__ inline float fast_reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// 1 - sigmoid(x / log2(e) + ...) of a gate: the exact side where the gate is near 1 and the state lives long.
// bias2 = log2(e) bias. Both functions are exact to a few units in the last place and have no case of overflow.
__device__ inline float closed(float x, float bias2) {
  return fast_reciprocal(1.0f + fast_exp2(fmaf(x, kLog2e, bias2)));
}
__device__ inline float fast_sigmoid(float x) { return fast_reciprocal(1.0f + fast_exp2(x * -kLog2e)); }

// One step of a transposing sum: of two values a lane keeps one, summed over the two lanes that differ in bit d.
__device__ inline float fold(float low, float high, int d) {
  const bool upper = threadIdx.x & d;
  const float sent = __shfl_xor_sync(kAllLanes, upper ? low : high, d);
  return (upper ? high : low) + sent;
}
// The steps after the first: x holds value i of lanes without bit 3, value i + 8 of those with it, for i < 8. Lane l
// gets the sum of value l mod 16 over the warp.
__device__ inline float fold_eight(float (&x)[8]) {
#pragma unroll
  for (int d = 4; d > 0; d /= 2) {
#pragma unroll
    for (int i = 0; i < d; ++i) x[i] = fold(x[i], x[i + d], d);
  }
  return x[0] + __shfl_xor_sync(kAllLanes, x[0], 16);
}

// Dynamic shared memory of a kernel whose blocks shall fill a multiprocessor with it.
template <class... Args>
void use_shared_memory(void (*kernel)(Args...), int64_t bytes, const char* name) {
  const auto* function = reinterpret_cast<const void*>(kernel);
  allow_shared_memory(function, bytes, name);
  cudaFuncSetAttribute(function, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
}

// Calls f with a constant: do pairs of channels go together?
template <class T, class F>
void with_pairs(bool pairs, F&& f) {
  if constexpr (sizeof(T) == 4) {
    f(std::true_type());
  } else {
    pairs ? f(std::true_type()) : f(std::false_type());
  }
}

// True if rows of heads that start at `data` with these strides allow accesses to pairs of channels.
template <class T>
bool paired(const T* data, int64_t stride = 0, int64_t other = 0) {
  return reinterpret_cast<uintptr_t>(data) % (2 * sizeof(T)) == 0 && stride % 2 == 0 && other % 2 == 0;
}
template <class T>
bool paired(const RowsRef<T>& x) {
  return paired(x.data, x.row);
}
template <class T>
bool paired(const HeadsRef<T>& x) {
  return paired(x.data, x.row, x.head);
}
template <class T>
bool paired(const ChunkRows<T>& x) {
  return paired(x.data, x.begin, x.chunk) && paired(x.data, x.head, x.token);
}

// True if the streams of proj and rows of heads allow copies of 16 bytes.
template <class T>
bool vector_rows(int64_t dim, const RowsRef<const T>& proj) {
  return dim % 8 == 0 && aligned16(proj);
}

// `running` must not change before all have read it.
template <class T>
bool updates_in_place(const RatForward<T>& a) {
  return a.final_k.data == a.running_k.data || a.final_v.data == a.running_v.data;
}

// Blocks along the pieces of a chunk; they stride.
inline unsigned piece_blocks(const RatShape& s) {
  const int64_t pieces = blocks_for(s.max_chunk, kRatPiece);
  return static_cast<unsigned>(pieces < 1 ? 1 : pieces < 32768 ? pieces : 32768);
}

}  // namespace rattan::kernels::cuda
