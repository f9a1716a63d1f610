// Interval attention of few queries that each have keys of their own: a decoding step of many sequences. (Of attention
// and windows a short piece after a long past comes here too.) One block a query and head, or a part of its keys
// (interval_rows.cuh).
#include "rattan/kernels/attention.h"
#include "rattan/kernels/cuda/dependent_launch.cuh"
#include "rattan/kernels/cuda/interval_attention.h"
#include "rattan/kernels/cuda/interval_rows.cuh"
#include "rattan/kernels/cuda/launch.h"

namespace rattan::kernels::cuda {

namespace interval_rows_file {

// E: what keys and values are held in, T or int8_t (mxint8.h).
template <class T, class E>
struct Rows {
  IntervalForward<T> a;  // of its k and v nothing is read
  RowSource<E> k, v;
  bool vector;
};

template <class T, class E, int lanes, int C, int warps>
__global__ void __launch_bounds__(warps * 32, row_blocks<E>(warps, C)) kernel(Rows<T, E> p) {
  const IntervalForward<T>& a = p.a;
  __shared__ RowSums<lanes, C, warps> sums;
  wait_for_stream();
  release_next();
  const int64_t pair = blockIdx.x, row = pair / a.heads;
  const int head = static_cast<int>(pair - row * a.heads), kv_head = head / static_cast<int>(a.heads / a.kv_heads);
  const int dim = static_cast<int>(a.dim);
  const int64_t low = a.begin[row], count = a.end[row] > low ? a.end[row] - low : 0;
  RowKeys<E, lanes, C, warps> keys(p.k, p.v, kv_head, low + count * blockIdx.y / gridDim.y,
                                   low + count * (blockIdx.y + 1) / gridDim.y, dim, p.vector);
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

template <class T, class E>
void run(const Rows<T, E>& p, cudaStream_t stream) {
  const IntervalForward<T>& a = p.a;
  const RowPlan plan(a.queries, a.keys, a.heads);
  const int64_t n = a.scratch ? plan.parts : 1;
  const dim3 grid(static_cast<unsigned>(a.queries * a.heads), static_cast<unsigned>(n));
  with_row_lanes<E>(a.dim, plan.warps, [&]<int lanes, int C, int warps>() {
    launch_dependent("attention_forward (rows)", kernel<T, E, lanes, C, warps>, grid, warps * 32, 0, stream, p);
  });
  if (n == 1) return;
  launch_dependent("attention_forward (parts of rows)", merge_kernel<T>, grid.x, kRowMergeThreads, 0, stream, a, n);
}

template <class T>
void run(const IntervalForward<T>& a, void* stream) {
  run(Rows<T, T>{a, row_source(a.k), row_source(a.v), a.vector}, static_cast<cudaStream_t>(stream));
}

template <class T>
void run(const AttentionCached<T>& c, void* scratch, void* stream) {
  if (c.queries == 0 || c.heads == 0 || c.dim == 0) return;
  check_dim("attention_cached", c.dim);
  IntervalForward<T> a;
  a.queries = c.queries, a.keys = c.keys, a.dim = c.dim, a.scale = c.scale;
  a.heads = a.q_heads = c.heads, a.kv_heads = c.kv_heads;
  a.begin = c.begin, a.end = c.end, a.q = c.q, a.o = c.o;
  if (interval_rows_scratch_bytes(c.queries, c.keys, c.heads, c.dim) > 0) a.scratch = static_cast<float*>(scratch);
  const bool vector = c.dim % 16 == 0 && aligned16(c.k.code) && aligned16(c.v.code);
  run(Rows<T, int8_t>{a, row_source(c.k), row_source(c.v), vector}, static_cast<cudaStream_t>(stream));
}

}  // namespace interval_rows_file

int64_t interval_rows_scratch_bytes(int64_t queries, int64_t keys, int64_t heads, int64_t dim) {
  const int64_t n = RowPlan(queries, keys, heads).parts;
  return n > 1 ? queries * heads * n * (dim + 2) * 4 : 0;
}
void interval_attention_rows(const IntervalForward<float>& a, void* stream) { interval_rows_file::run(a, stream); }
void interval_attention_rows(const IntervalForward<bf16>& a, void* stream) { interval_rows_file::run(a, stream); }

int64_t attention_cached_scratch_bytes(int64_t queries, int64_t keys, int64_t heads, int64_t dim) {
  return interval_rows_scratch_bytes(queries, keys, heads, dim);
}
void attention_cached(const AttentionCached<float>& a, void* scratch, void* stream) {
  interval_rows_file::run(a, scratch, stream);
}
void attention_cached(const AttentionCached<bf16>& a, void* scratch, void* stream) {
  interval_rows_file::run(a, scratch, stream);
}

}  // namespace rattan::kernels::cuda
