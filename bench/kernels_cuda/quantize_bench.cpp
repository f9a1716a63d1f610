// Time of rounding rows to e4m3 at the sizes of a layer of d_model 2048 and 262,144 tokens, bf16: the input of the
// input projection, and the gradient of its output. Ten runs after three warm-ups; median, least and most, and bytes a
// second of what must be moved: two read and one written an element, four written a row.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <vector>

#include "rattan/base/error.h"
#include "rattan/base/random.h"
#include "rattan/kernels/quantize_rows.h"

namespace rattan::kernels::quantize_bench_file {

void check(cudaError_t status) {
  if (status != cudaSuccess) fail("CUDA: {}", cudaGetErrorString(status));
}

void* allocate(int64_t bytes) {
  void* p = nullptr;
  check(cudaMalloc(&p, static_cast<std::size_t>(bytes)));
  return p;
}

void time_rows(int64_t rows, int64_t dim) {
  auto* x = static_cast<bf16*>(allocate(rows * dim * 2));
  auto* y = static_cast<e4m3*>(allocate(rows * dim));
  auto* scale = static_cast<float*>(allocate(rows * 4));
  Rng rng(1);
  std::vector<bf16> row(static_cast<std::size_t>(dim));
  for (bf16& value : row) value = to_bf16(static_cast<float>(rng.normal()));
  for (int64_t r = 0; r < rows; ++r)
    check(cudaMemcpyAsync(x + r * dim, r == 0 ? row.data() : x, row.size() * 2, cudaMemcpyDefault));
  QuantizeRows<bf16> a{rows, dim, {x, dim}, {y, dim}, scale};
  cudaEvent_t start, stop;
  check(cudaEventCreate(&start));
  check(cudaEventCreate(&stop));
  std::vector<float> times;
  for (int i = 0; i < 13; ++i) {
    check(cudaEventRecord(start));
    cuda::quantize_rows(a, nullptr);
    check(cudaEventRecord(stop));
    check(cudaEventSynchronize(stop));
    float ms = 0;
    check(cudaEventElapsedTime(&ms, start, stop));
    if (i >= 3) times.push_back(ms);
  }
  std::sort(times.begin(), times.end());
  const double median = (times[4] + times[5]) / 2, bytes = static_cast<double>(rows * (3 * dim + 4));
  std::printf("quantize rows, %7ld x %5ld %9.4f ms (%.4f .. %.4f)  %7.1f GB/s\n", static_cast<long>(rows),
              static_cast<long>(dim), median, times.front(), times.back(), bytes / median * 1e-6);
  for (void* p : std::initializer_list<void*>{x, y, scale}) check(cudaFree(p));
}

}  // namespace rattan::kernels::quantize_bench_file

int main() {
  using rattan::kernels::quantize_bench_file::time_rows;
  time_rows(262144, 2048);
  time_rows(262144, 6656);
  time_rows(262144, 512);
  time_rows(65536, 8192);
  time_rows(65536, 16384);
  time_rows(65536, 2050);
  return 0;
}
