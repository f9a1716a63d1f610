// One block a row.
#include <cmath>

#include "rattan/kernels/argmax.h"
#include "rattan/kernels/cuda/dependent_launch.cuh"
#include "rattan/kernels/cuda/device.cuh"

namespace rattan::kernels::cuda {

namespace argmax_file {

constexpr int kThreads = 1024;

struct Best {
  float value = -INFINITY;
  int64_t index = INT64_MAX;

  __device__ void take(float x, int64_t i) {
    if (x > value || (x == value && i < index)) value = x, index = i;
  }
};

__device__ inline Best best_of_warp(Best best) {
#pragma unroll
  for (int d = 16; d > 0; d /= 2) {
    const float value = __shfl_xor_sync(kAllLanes, best.value, d);
    best.take(value, __shfl_xor_sync(kAllLanes, best.index, d));
  }
  return best;
}

template <class T, int V>
__global__ void __launch_bounds__(kThreads) kernel(Argmax<T> a) {
  constexpr int together = 4;
  __shared__ Best parts[kThreads / 32];
  wait_for_stream();
  release_next();
  const T* x = at(a.x, int64_t{blockIdx.x});
  Best best;
  for (int64_t first = int64_t{threadIdx.x} * V; first < a.dim; first += int64_t{kThreads} * V * together) {
    Pack<T, V> some[together];
#pragma unroll
    for (int k = 0; k < together; ++k) {
      const int64_t i = first + int64_t{k} * kThreads * V;
      if (i < a.dim) some[k] = load_pack<V>(x + i);
    }
#pragma unroll
    for (int k = 0; k < together; ++k) {
      const int64_t i = first + int64_t{k} * kThreads * V;
      if (i >= a.dim) break;
#pragma unroll
      for (int j = 0; j < V; ++j) best.take(as_float(some[k].item[j]), i + j);
    }
  }
  best = best_of_warp(best);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = best;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  best = best_of_warp(parts[threadIdx.x]);
  if (threadIdx.x == 0) a.index[blockIdx.x] = best.index == INT64_MAX ? 0 : best.index;
}

template <class T>
void run(const Argmax<T>& a, void* stream_pointer) {
  if (a.rows == 0) return;
  constexpr int V = 16 / sizeof(T);
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  auto* chosen = a.dim % V == 0 && aligned16(a.x) ? kernel<T, V> : kernel<T, 1>;
  launch_dependent("argmax", chosen, static_cast<unsigned>(a.rows), kThreads, 0, stream, a);
}

}  // namespace argmax_file

void argmax(const Argmax<float>& a, void* stream) { argmax_file::run(a, stream); }
void argmax(const Argmax<bf16>& a, void* stream) { argmax_file::run(a, stream); }

}  // namespace rattan::kernels::cuda
