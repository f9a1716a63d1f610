// Device helpers shared by the CUDA kernels: conversions, vector access, sums in a fixed order.
#pragma once
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "rattan/kernels/tensor_ref.h"

namespace rattan::kernels::cuda {

constexpr unsigned kAllLanes = 0xffffffffu;
inline constexpr float kLog2e = 1.4426950408889634f, kLn2 = 0.69314718055994531f;

// 2^x to two units in the last place; 0 where that is subnormal.
__device__ inline float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ inline float as_float(float x) { return x; }
__device__ inline float as_float(bf16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }

template <class T>
__device__ T from_float(float x);
template <>
__device__ inline float from_float<float>(float x) {
  return x;
}
template <>
__device__ inline bf16 from_float<bf16>(float x) {
  return {__bfloat16_as_ushort(__float2bfloat16_rn(x))};
}

template <class T>
__device__ T* at(const HeadsRef<T>& ref, int64_t row, int64_t head) {
  return ref.data + row * ref.row + head * ref.head;
}
template <class T>
__device__ T* at(const RowsRef<T>& ref, int64_t row) {
  return ref.data + row * ref.row;
}

// The fast division is exact to two units in the last place, and 0 where the exponential overflows.
__device__ inline float sigmoid(float x) { return __fdividef(1.0f, 1.0f + expf(-x)); }

// V elements that move as one access of V * sizeof(T) bytes (at most 16).
template <class T, int V>
struct alignas(sizeof(T) * V) Pack {
  T item[V];
};

template <int V, class T>
__device__ Pack<T, V> load_pack(const T* p) {
  return *reinterpret_cast<const Pack<T, V>*>(p);
}
// The same for global memory that the kernel does not write: such loads may move above earlier stores.
template <int V, class T>
__device__ Pack<T, V> load_constant(const T* p) {
  constexpr int bytes = V * sizeof(T);
  Pack<T, V> pack;
  if constexpr (bytes == 16) {
    *reinterpret_cast<uint4*>(&pack) = __ldg(reinterpret_cast<const uint4*>(p));
  } else if constexpr (bytes == 8) {
    *reinterpret_cast<uint2*>(&pack) = __ldg(reinterpret_cast<const uint2*>(p));
  } else if constexpr (bytes == 4) {
    *reinterpret_cast<unsigned*>(&pack) = __ldg(reinterpret_cast<const unsigned*>(p));
  } else {
    *reinterpret_cast<unsigned short*>(&pack) = __ldg(reinterpret_cast<const unsigned short*>(p));
  }
  return pack;
}
template <class T, int V>
__device__ void store_pack(T* p, const Pack<T, V>& pack) {
  *reinterpret_cast<Pack<T, V>*>(p) = pack;
}

// E consecutive elements a lane of a row of `dim`; channels beyond it, and all if not `in`, are 0.
// `vector`: 16-byte accesses are allowed and dim is a multiple of them; the kernel must not write such rows before.
template <class T, int E>
__device__ void load_lane(float (&x)[E], const T* row, int dim, bool vector, bool in = true) {
  constexpr int V = E * sizeof(T) <= 16 ? E : 16 / sizeof(T);
  const int first = threadIdx.x % 32 * E;
#pragma unroll
  for (int e = 0; e < E; e += V) {
    if (vector) {
      Pack<T, V> pack;
#pragma unroll
      for (int i = 0; i < V; ++i) pack.item[i] = from_float<T>(0.0f);
      if (in && first + e < dim) pack = load_constant<V>(row + first + e);
#pragma unroll
      for (int i = 0; i < V; ++i) x[e + i] = as_float(pack.item[i]);
    } else {
#pragma unroll
      for (int i = 0; i < V; ++i) x[e + i] = in && first + e + i < dim ? as_float(row[first + e + i]) : 0.0f;
    }
  }
}

template <class T, int E>
__device__ void store_lane(T* row, const float (&x)[E], int dim, bool vector) {
  constexpr int V = E * sizeof(T) <= 16 ? E : 16 / sizeof(T);
  const int first = threadIdx.x % 32 * E;
#pragma unroll
  for (int e = 0; e < E; e += V) {
    if (first + e >= dim) continue;
    if (vector) {
      Pack<T, V> pack;
#pragma unroll
      for (int i = 0; i < V; ++i) pack.item[i] = from_float<T>(x[e + i]);
      store_pack(row + first + e, pack);
    } else {
#pragma unroll
      for (int i = 0; i < V; ++i) {
        if (first + e + i < dim) row[first + e + i] = from_float<T>(x[e + i]);
      }
    }
  }
}

// Sum over the 32 lanes; every lane gets it. The butterfly adds in one order.
__device__ inline float warp_sum(float x) {
#pragma unroll
  for (int d = 16; d > 0; d /= 2) x += __shfl_xor_sync(kAllLanes, x, d);
  return x;
}
__device__ inline float warp_max(float x) {
#pragma unroll
  for (int d = 16; d > 0; d /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, d));
  return x;
}

// Sum over the block (a whole number of warps, at most 32); every thread gets it. `shared` holds 32 floats
// and may be used again at once.
__device__ inline float block_sum(float x, float* shared) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  x = warp_sum(x);
  if (lane == 0) shared[warp] = x;
  __syncthreads();
  x = warp_sum(lane < warps ? shared[lane] : 0.0f);
  __syncthreads();
  return x;
}
__device__ inline float block_max(float x, float* shared) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  x = warp_max(x);
  if (lane == 0) shared[warp] = x;
  __syncthreads();
  x = warp_max(lane < warps ? shared[lane] : shared[0]);
  __syncthreads();
  return x;
}

// True if rows that start at `data` with the given strides (in elements) allow 16-byte accesses.
template <class T>
bool aligned16(const T* data, int64_t stride = 0, int64_t head = 0) {
  constexpr int64_t unit = 16 / sizeof(T);
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride % unit == 0 && head % unit == 0;
}
template <class T>
bool aligned16(const HeadsRef<T>& ref) {
  return aligned16(ref.data, ref.row, ref.head);
}
template <class T>
bool aligned16(const RowsRef<T>& ref) {
  return aligned16(ref.data, ref.row);
}

__host__ __device__ inline int64_t blocks_for(int64_t items, int64_t per_block) {
  return (items + per_block - 1) / per_block;
}

// Grid for loops that stride over all items: enough blocks to fill any device, few enough for any size.
inline unsigned strided_grid(int64_t items, int64_t per_block) {
  const int64_t blocks = blocks_for(items, per_block);
  return static_cast<unsigned>(blocks < 16384 ? blocks : 16384);
}

}  // namespace rattan::kernels::cuda
