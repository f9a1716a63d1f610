#include "rattan/kernels/cuda/launch.h"
#include "rattan/kernels/cuda/rat_common.cuh"

namespace rattan::kernels::cuda {

namespace rat_rows_file {

constexpr int kThreads = 256;

// One warp a chunk.
__global__ void rows_kernel(const RatChunk* table, int64_t chunks, RatRows rows) {
  const int64_t chunk = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / 32;
  if (chunk >= chunks) return;
  const RatChunk c = table[chunk];
  for (int64_t n = c.begin + static_cast<int64_t>(threadIdx.x % 32); n < c.end; n += 32) {
    rows.first[n] = c.first;
    rows.slot[n] = c.slot;
    rows.position[n] = c.position;
  }
}

template <class T>
__global__ void rotate_kernel(RatShape shape, const int32_t* position, const float* cos, const float* sin,
                              RowsRef<const T> proj, T* out) {
  const int64_t width = shape.groups * shape.dim, total = shape.tokens * width, half = shape.dim / 2;
  const RatColumns columns(shape);
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < total; i += int64_t{gridDim.x} * kThreads) {
    const int64_t n = i / width, c = (i - n * width) % shape.dim;
    if (position[n] < 0) {
      out[i] = from_float<T>(0);
      continue;
    }
    const T* q = at(proj, n) + columns.q + (i - n * width);
    float x = as_float(*q);
    if (cos && c < 2 * half) {
      const bool low = c < half;
      const int64_t angle = position[n] * half + (low ? c : c - half);
      const float partner = as_float(low ? q[half] : q[-half]);
      x = x * cos[angle] + (low ? -partner : partner) * sin[angle];
    }
    out[i] = from_float<T>(x);
  }
}

template <class T>
void rotate(const RatShape& shape, const RatRows& rows, const float* cos, const float* sin, RowsRef<const T> proj,
            T* out, void* stream) {
  const int64_t total = shape.tokens * shape.groups * shape.dim;
  if (total == 0) return;
  rotate_kernel<<<strided_grid(total, kThreads), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(shape, rows.position,
                                                                                                   cos, sin, proj, out);
  check_launch("rat (queries)");
}

}  // namespace rat_rows_file

void rat_rows(const RatShape& shape, const RatChunk* table, const RatRows& rows, void* stream) {
  for (int32_t* p : {rows.first, rows.slot, rows.position}) fill_async(p, 0xff, shape.tokens * 4, "rat (rows)", stream);
  if (shape.chunks == 0) return;
  const auto blocks = static_cast<unsigned>(blocks_for(shape.chunks, rat_rows_file::kThreads / 32));
  rat_rows_file::rows_kernel<<<blocks, rat_rows_file::kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      table, shape.chunks, rows);
  check_launch("rat (rows)");
}

void rat_rotate_queries(const RatShape& shape, const RatRows& rows, const float* cos, const float* sin,
                        RowsRef<const float> proj, float* out, void* stream) {
  rat_rows_file::rotate(shape, rows, cos, sin, proj, out, stream);
}
void rat_rotate_queries(const RatShape& shape, const RatRows& rows, const float* cos, const float* sin,
                        RowsRef<const bf16> proj, bf16* out, void* stream) {
  rat_rows_file::rotate(shape, rows, cos, sin, proj, out, stream);
}

}  // namespace rattan::kernels::cuda
