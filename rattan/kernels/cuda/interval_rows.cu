// Interval attention of few queries that each have keys of their own: a decoding step of many sequences, or a short
// piece after a long past. One block a query and head, or a part of its keys (interval_rows.cuh).
#include "rattan/kernels/cuda/interval_attention.h"
#include "rattan/kernels/cuda/interval_rows.cuh"
#include "rattan/kernels/cuda/launch.h"

namespace rattan::kernels::cuda {

namespace interval_rows_file {

template <class T, int lanes, int C>
__global__ void __launch_bounds__(kRowThreads) kernel(IntervalForward<T> a) {
  __shared__ RowSums<lanes, C> sums;
  const int64_t row = blockIdx.x, pair = row * a.heads + blockIdx.y;
  const int head = blockIdx.y, kv_head = head / static_cast<int>(a.heads / a.kv_heads), dim = static_cast<int>(a.dim);
  const int64_t low = a.begin[row], count = a.end[row] > low ? a.end[row] - low : 0;
  RowKeys<T, lanes, C> keys(a.k, a.v, kv_head, low + count * blockIdx.z / gridDim.z,
                            low + count * (blockIdx.z + 1) / gridDim.z, dim, a.vector);
  const auto query = load_channels<T, C>(at(a.q, row, head % a.q_heads), keys.first, dim, a.vector, count > 0);
  float q[C];
#pragma unroll
  for (int c = 0; c < C; ++c) q[c] = as_float(query.item[c]) * a.scale * kLog2e;
  auto state = keys.attend(q);
  sums.put(state);
  const RowTotal total(sums);
  if (gridDim.z > 1) {
    float* part = row_part(a.scratch, pair, blockIdx.z, gridDim.z, dim);
    for (int c = threadIdx.x; c < dim; c += kRowThreads) part[c] = total.value(sums, c);
    if (threadIdx.x == 0) part[dim] = total.top, part[dim + 1] = total.sum;
    return;
  }
  const float factor = total.sum > 0 ? 1.0f / total.sum : 0.0f;
  for (int c = threadIdx.x; c < dim; c += kRowThreads) {
    at(a.o, row, head)[c] = from_float<T>(total.value(sums, c) * factor);
  }
  if (a.lse && threadIdx.x == 0) {
    a.lse[pair] = total.sum > 0 ? (total.top + log2f(total.sum)) * kLn2 : -INFINITY;
  }
}

// Merges the parts of a query and head, one block each.
template <class T>
__global__ void __launch_bounds__(kRowThreads) merge_kernel(IntervalForward<T> a, int64_t count) {
  const int64_t pair = int64_t{blockIdx.x} * a.heads + blockIdx.y;
  const RowParts parts(a.scratch, pair, count, static_cast<int>(a.dim));
  for (int c = threadIdx.x; c < parts.dim; c += kRowThreads) {
    at(a.o, blockIdx.x, blockIdx.y)[c] = from_float<T>(parts.sum > 0 ? parts.value(c) / parts.sum : 0.0f);
  }
  if (a.lse && threadIdx.x == 0) {
    a.lse[pair] = parts.sum > 0 ? (parts.top + log2f(parts.sum)) * kLn2 : -INFINITY;
  }
}

template <class T>
void run(const IntervalForward<T>& a, cudaStream_t stream) {
  const int64_t n = a.scratch ? row_parts(a.queries, a.keys, a.heads) : 1;
  const dim3 grid(static_cast<unsigned>(a.queries), static_cast<unsigned>(a.heads), static_cast<unsigned>(n));
  with_row_lanes<T>(a.dim, [&]<int lanes, int C>() {
    kernel<T, lanes, C><<<grid, kRowThreads, 0, stream>>>(a);
    check_launch("attention_forward (rows)");
  });
  if (n == 1) return;
  merge_kernel<<<dim3(grid.x, grid.y), kRowThreads, 0, stream>>>(a, n);
  check_launch("attention_forward (parts of rows)");
}

}  // namespace interval_rows_file

int64_t interval_rows_scratch_bytes(int64_t queries, int64_t keys, int64_t heads, int64_t dim) {
  const int64_t n = row_parts(queries, keys, heads);
  return n > 1 ? queries * heads * n * (dim + 2) * 4 : 0;
}
void interval_attention_rows(const IntervalForward<float>& a, void* stream) {
  interval_rows_file::run(a, static_cast<cudaStream_t>(stream));
}
void interval_attention_rows(const IntervalForward<bf16>& a, void* stream) {
  interval_rows_file::run(a, static_cast<cudaStream_t>(stream));
}

}  // namespace rattan::kernels::cuda
