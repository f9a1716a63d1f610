// One thread rotates V pairs (i, i + dim/2) of one head.
#include "rattan/kernels/cuda/device.cuh"
#include "rattan/kernels/cuda/launch.h"
#include "rattan/kernels/rope.h"

namespace rattan::kernels::cuda {

namespace rope_file {

constexpr int kThreads = 256;

template <class T, int V>
__global__ void rope_kernel(Rope<T> a) {
  const int64_t half = a.dim / 2, pieces = half / V, total = a.rows * a.heads * pieces;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < total; i += int64_t{gridDim.x} * kThreads) {
    const int64_t unit = i / pieces, column = (i - unit * pieces) * V;
    const int64_t row = unit / a.heads, head = unit - row * a.heads;
    const int64_t angle = a.position[row] * half + column;
    const T* x = at(a.x, row, head) + column;
    T* out = at(a.out, row, head) + column;
    const auto low = load_pack<V>(x), high = load_pack<V>(x + half);
    Pack<T, V> low_out, high_out;
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const float c = a.cos[angle + j], s = a.inverse ? -a.sin[angle + j] : a.sin[angle + j];
      const float u = as_float(low.item[j]), v = as_float(high.item[j]);
      low_out.item[j] = from_float<T>(u * c - v * s);
      high_out.item[j] = from_float<T>(v * c + u * s);
    }
    store_pack(out, low_out);
    store_pack(out + half, high_out);
  }
}

template <class T>
void run(const Rope<T>& a, void* stream) {
  if (a.rows == 0 || a.heads == 0 || a.dim < 2) return;
  constexpr int V = 16 / sizeof(T);
  const auto s = static_cast<cudaStream_t>(stream);
  const int64_t half = a.dim / 2;
  if (half % V == 0 && aligned16(a.x) && aligned16(a.out)) {
    rope_kernel<T, V><<<strided_grid(a.rows * a.heads * (half / V), kThreads), kThreads, 0, s>>>(a);
  } else {
    rope_kernel<T, 1><<<strided_grid(a.rows * a.heads * half, kThreads), kThreads, 0, s>>>(a);
  }
  check_launch("rope");
}

}  // namespace rope_file

void rope(const Rope<float>& a, void* stream) { rope_file::run(a, stream); }
void rope(const Rope<bf16>& a, void* stream) { rope_file::run(a, stream); }

}  // namespace rattan::kernels::cuda
