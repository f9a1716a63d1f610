// One thread rotates V pairs (i, i + dim/2) of one head.
#include "rattan/kernels/cuda/device.cuh"
#include "rattan/kernels/cuda/launch.h"
#include "rattan/kernels/rope.h"

namespace rattan::kernels::cuda {

namespace rope_file {

constexpr int kThreads = 256, kUnitsPerThread = 4;

// V elements of a row of the tables.
template <int V>
__device__ void load_angles(float (&to)[V], const float* from) {
  constexpr int width = V < 4 ? V : 4;
#pragma unroll
  for (int j = 0; j < V; j += width) {
    const auto part = load_pack<width>(from + j);
#pragma unroll
    for (int k = 0; k < width; ++k) to[j + k] = part.item[k];
  }
}

// A block takes `rows_each` rows.
template <class T, int V>
__global__ void rope_kernel(Rope<T> a, int rows_each) {
  const int half = static_cast<int>(a.dim / 2), pieces = half / V, units = static_cast<int>(a.heads) * pieces;
  const int64_t first = int64_t{blockIdx.x} * rows_each;
  const int rows = static_cast<int>(a.rows - first < rows_each ? a.rows - first : rows_each);
  for (int i = static_cast<int>(threadIdx.x); i < rows * units; i += kThreads) {
    const int r = i / units, unit = i - r * units, head = unit / pieces, column = (unit - head * pieces) * V;
    const int64_t row = first + r, angle = int64_t{a.position[row]} * half + column;
    const T* x = at(a.x, row, head) + column;
    T* out = at(a.out, row, head) + column;
    const auto low = load_pack<V>(x), high = load_pack<V>(x + half);
    float cos[V], sin[V];
    load_angles(cos, a.cos + angle);
    load_angles(sin, a.sin + angle);
    Pack<T, V> low_out, high_out;
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const float c = cos[j], s = a.inverse ? -sin[j] : sin[j];
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
  const int64_t half = a.dim / 2;
  const bool packs = half % V == 0 && aligned16(a.x) && aligned16(a.out) && aligned16(a.cos) && aligned16(a.sin);
  const int64_t units = a.heads * (packs ? half / V : half), each = kThreads * kUnitsPerThread / units;
  const auto rows_each = static_cast<int>(each > 1 ? each : 1);
  const auto grid = static_cast<unsigned>(blocks_for(a.rows, rows_each));
  const auto s = static_cast<cudaStream_t>(stream);
  if (packs) {
    rope_kernel<T, V><<<grid, kThreads, 0, s>>>(a, rows_each);
  } else {
    rope_kernel<T, 1><<<grid, kThreads, 0, s>>>(a, rows_each);
  }
  check_launch("rope");
}

}  // namespace rope_file

void rope(const Rope<float>& a, void* stream) { rope_file::run(a, stream); }
void rope(const Rope<bf16>& a, void* stream) { rope_file::run(a, stream); }

}  // namespace rattan::kernels::cuda
