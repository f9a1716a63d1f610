#include <cuda_runtime.h>

#include <cstdint>

#include "rattan/kernels/cuda/launch.h"

namespace rattan::kernels::cuda {

namespace column_sum_file {

constexpr int kColumns = 32, kRowThreads = 32;

// One block sums 32 columns; thread row y takes rows y, y + 32, ... and the 32 sums are added in order.
__global__ void column_sum_kernel(const float* partial, int64_t rows, int64_t dim, float* out) {
  __shared__ float sums[kRowThreads][kColumns + 1];
  const int64_t column = int64_t{blockIdx.x} * kColumns + threadIdx.x;
  float sum = 0;
  if (column < dim) {
    for (int64_t r = threadIdx.y; r < rows; r += kRowThreads) sum += partial[r * dim + column];
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= dim) return;
  float total = 0;
  for (int y = 0; y < kRowThreads; ++y) total += sums[y][threadIdx.x];
  out[column] = total;
}

}  // namespace column_sum_file

void column_sum(const float* partial, int64_t rows, int64_t dim, float* out, void* stream) {
  if (dim == 0) return;
  const dim3 threads(column_sum_file::kColumns, column_sum_file::kRowThreads);
  const auto blocks = static_cast<unsigned>((dim + column_sum_file::kColumns - 1) / column_sum_file::kColumns);
  column_sum_file::column_sum_kernel<<<blocks, threads, 0, static_cast<cudaStream_t>(stream)>>>(partial, rows, dim,
                                                                                                out);
  check_launch("column_sum");
}

}  // namespace rattan::kernels::cuda
