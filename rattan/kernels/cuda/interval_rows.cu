// Interval attention of few queries that each have keys of their own: a decoding step of many sequences, or a short
// piece after a long past. One block a query and head, or a part of its keys (interval_rows.cuh).
#include "rattan/kernels/cuda/dependent_launch.cuh"
#include "rattan/kernels/cuda/interval_attention.h"
#include "rattan/kernels/cuda/interval_rows.cuh"

namespace rattan::kernels::cuda {

namespace interval_rows_file {

template <class T, int lanes, int C, int warps>
__global__ void __launch_bounds__(warps * 32, row_blocks<T>(warps, C)) kernel(IntervalForward<T> a) {
  __shared__ RowSums<lanes, C, warps> sums;
  wait_for_stream();
  release_next();
  const int64_t pair = blockIdx.x, row = pair / a.heads;
  const int head = static_cast<int>(pair - row * a.heads), kv_head = head / static_cast<int>(a.heads / a.kv_heads);
  const int dim = static_cast<int>(a.dim);
  const int64_t low = a.begin[row], count = a.end[row] > low ? a.end[row] - low : 0;
  RowKeys<T, lanes, C, warps> keys(a.k, a.v, kv_head, low + count * blockIdx.y / gridDim.y,
                                   low + count * (blockIdx.y + 1) / gridDim.y, dim, a.vector);
  float q[C];
  const T* query = at(a.q, row, head % a.q_heads);
#pragma unroll
  for (int c = 0; c < C; ++c) {
    const int channel = keys.first + c;
    q[c] = channel < dim ? as_float(query[channel]) * a.scale * kLog2e : 0.0f;
  }
  auto state = keys.attend(q);
  sums.put(state);
  const RowTotal<lanes, C, warps> total(sums);
  if (gridDim.y > 1) {
    float* part = row_part(a.scratch, pair, blockIdx.y, gridDim.y, dim);
    for (int c = threadIdx.x; c < dim; c += warps * 32) part[c] = total.value(c);
    if (threadIdx.x == 0) part[dim] = total.top, part[dim + 1] = total.sum;
    return;
  }
  const float factor = total.sum > 0 ? 1.0f / total.sum : 0.0f;
  for (int c = threadIdx.x; c < dim; c += warps * 32) at(a.o, row, head)[c] = from_float<T>(total.value(c) * factor);
  if (a.lse && threadIdx.x == 0) {
    a.lse[pair] = total.sum > 0 ? (total.top + log2f(total.sum)) * kLn2 : -INFINITY;
  }
}

// Merges the parts of a query and head, one block each.
template <class T>
__global__ void __launch_bounds__(kRowMergeThreads) merge_kernel(IntervalForward<T> a, int64_t count) {
  wait_for_stream();
  release_next();
  const int64_t pair = blockIdx.x, row = pair / a.heads;
  const RowParts parts(a.scratch, pair, count, static_cast<int>(a.dim));
  for (int c = threadIdx.x; c < parts.dim; c += kRowMergeThreads) {
    at(a.o, row, pair - row * a.heads)[c] = from_float<T>(parts.sum > 0 ? parts.value(c) / parts.sum : 0.0f);
  }
  if (a.lse && threadIdx.x == 0) {
    a.lse[pair] = parts.sum > 0 ? (parts.top + log2f(parts.sum)) * kLn2 : -INFINITY;
  }
}

template <class T>
void run(const IntervalForward<T>& a, cudaStream_t stream) {
  const RowPlan plan(a.queries, a.keys, a.heads);
  const int64_t n = a.scratch ? plan.parts : 1;
  const dim3 grid(static_cast<unsigned>(a.queries * a.heads), static_cast<unsigned>(n));
  with_row_lanes<T>(a.dim, plan.warps, [&]<int lanes, int C, int warps>() {
    launch_dependent("attention_forward (rows)", kernel<T, lanes, C, warps>, grid, warps * 32, 0, stream, a);
  });
  if (n == 1) return;
  launch_dependent("attention_forward (parts of rows)", merge_kernel<T>, grid.x, kRowMergeThreads, 0, stream, a, n);
}

}  // namespace interval_rows_file

int64_t interval_rows_scratch_bytes(int64_t queries, int64_t keys, int64_t heads, int64_t dim) {
  const int64_t n = RowPlan(queries, keys, heads).parts;
  return n > 1 ? queries * heads * n * (dim + 2) * 4 : 0;
}
void interval_attention_rows(const IntervalForward<float>& a, void* stream) {
  interval_rows_file::run(a, static_cast<cudaStream_t>(stream));
}
void interval_attention_rows(const IntervalForward<bf16>& a, void* stream) {
  interval_rows_file::run(a, static_cast<cudaStream_t>(stream));
}

}  // namespace rattan::kernels::cuda
