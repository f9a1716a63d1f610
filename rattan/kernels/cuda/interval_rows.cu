// Interval attention of few queries that each have keys of their own: a decoding step of many sequences, or a short
// piece after a long past. One block a query and head, or a part of its keys where there are too few of those to fill
// a device. The warps share the keys out; within a warp some lanes hold one key, 16 bytes each, and the keys of the
// next round are on their way while those of this one are used. Each group of lanes keeps a softmax of its own until
// the end, when all are merged in a fixed order.
#include <cmath>

#include "rattan/kernels/cuda/device.cuh"
#include "rattan/kernels/cuda/interval_attention.h"
#include "rattan/kernels/cuda/launch.h"

namespace rattan::kernels::cuda {

namespace interval_rows_file {

constexpr int kWarps = 4, kRound = 4;  // keys of a group of lanes that are loaded together
constexpr int64_t kBlocks = 1056;      // eight for each of 132 multiprocessors
constexpr int64_t kMaxParts = 64, kLeastKeys = 256;
constexpr float kScoreLog2e = 1.4426950408889634f, kScoreLn2 = 0.69314718055994531f;

// Parts that a query's keys are cut into; the mean number of keys a query decides, since the intervals lie on the
// device.
int64_t parts(int64_t queries, int64_t keys, int64_t heads) {
  const int64_t blocks = queries * heads, per_query = keys / (queries > 0 ? queries : 1);
  if (blocks == 0 || blocks >= kBlocks / 2) return 1;
  int64_t n = blocks_for(kBlocks, blocks);
  if (n > per_query / kLeastKeys) n = per_query / kLeastKeys;
  return n < 1 ? 1 : n < kMaxParts ? n : kMaxParts;
}

// Maximum (times log2 e), sum of exponentials and weighted values of some keys, for C channels.
template <int C>
struct Softmax {
  float most = -INFINITY, sum = 0, out[C] = {};

  __device__ void shrink_to(float top) {
    const float factor = top == -INFINITY ? 0.0f : exp2f(most - top);
    most = top;
    sum *= factor;
#pragma unroll
    for (int c = 0; c < C; ++c) out[c] *= factor;
  }
  __device__ void merge_lane(int distance) {
    const float other = __shfl_xor_sync(kAllLanes, most, distance);
    shrink_to(fmaxf(most, other));
    sum += __shfl_xor_sync(kAllLanes, sum, distance);
#pragma unroll
    for (int c = 0; c < C; ++c) out[c] += __shfl_xor_sync(kAllLanes, out[c], distance);
  }
};

template <class T, int C>
__device__ Pack<T, C> load_channels(const T* row, int first, int dim, bool vector, bool in) {
  constexpr int V = 16 / sizeof(T);
  Pack<T, C> x;
#pragma unroll
  for (int c = 0; c < C; ++c) x.item[c] = from_float<T>(0.0f);
  if (!in) return x;
#pragma unroll
  for (int c = 0; c < C; c += V) {
    if (vector) {
      if (first + c >= dim) continue;
      const auto part = load_constant<V>(row + first + c);
#pragma unroll
      for (int i = 0; i < V; ++i) x.item[c + i] = part.item[i];
    } else {
#pragma unroll
      for (int i = 0; i < V; ++i) {
        if (first + c + i < dim) x.item[c + i] = row[first + c + i];
      }
    }
  }
  return x;
}

// The results of the parts of a query and head in scratch memory: dim weighted values, maximum, sum.
__device__ inline float* part_at(float* scratch, int64_t pair, int64_t part, int64_t parts, int dim) {
  return scratch + (pair * parts + part) * (dim + 2);
}

// lanes: of a key, C channels each; the groups of lanes of a warp have keys of their own.
template <class T, int lanes, int C>
__global__ void __launch_bounds__(kWarps * 32) kernel(IntervalForward<T> a) {
  constexpr int groups = 32 / lanes, stride = kWarps * groups * kRound;
  __shared__ float values[kWarps][lanes * C], tops[kWarps], sums[kWarps];
  const int64_t row = blockIdx.x, pair = row * a.heads + blockIdx.y;
  const int head = blockIdx.y, kv_head = head / static_cast<int>(a.heads / a.kv_heads);
  const int dim = static_cast<int>(a.dim), warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int first = lane % lanes * C;
  int64_t begin = a.begin[row], end = a.end[row];
  const int64_t count = end > begin ? end - begin : 0;
  end = begin + count * (blockIdx.z + 1) / gridDim.z;
  begin += count * blockIdx.z / gridDim.z;
  const float scale = a.scale * kScoreLog2e;
  float q[C];
  const auto query = load_channels<T, C>(at(a.q, row, head % a.q_heads), first, dim, a.vector, count > 0);
#pragma unroll
  for (int c = 0; c < C; ++c) q[c] = as_float(query.item[c]) * scale;

  Softmax<C> state;
  Pack<T, C> k[kRound], v[kRound];
  const int64_t own = begin + (warp * groups + lane / lanes) * kRound;
  auto load = [&](int64_t j0) {
#pragma unroll
    for (int b = 0; b < kRound; ++b) {
      const bool in = j0 + b < end;
      k[b] = load_channels<T, C>(at(a.k, in ? j0 + b : 0, kv_head), first, dim, a.vector, in);
      v[b] = load_channels<T, C>(at(a.v, in ? j0 + b : 0, kv_head), first, dim, a.vector, in);
    }
  };
  load(own);
  for (int64_t j0 = own, base = begin; base < end; j0 += stride, base += stride) {
    float s[kRound], top = state.most;
#pragma unroll
    for (int b = 0; b < kRound; ++b) {
      s[b] = 0;
#pragma unroll
      for (int c = 0; c < C; ++c) s[b] += q[c] * as_float(k[b].item[c]);
    }
    Pack<T, C> now[kRound];
#pragma unroll
    for (int b = 0; b < kRound; ++b) now[b] = v[b];
    load(j0 + stride);
#pragma unroll
    for (int b = 0; b < kRound; ++b) {
#pragma unroll
      for (int d = lanes / 2; d > 0; d /= 2) s[b] += __shfl_xor_sync(kAllLanes, s[b], d);
      if (j0 + b >= end) s[b] = -INFINITY;
      top = fmaxf(top, s[b]);
    }
    state.shrink_to(top);
#pragma unroll
    for (int b = 0; b < kRound; ++b) {
      const float p = s[b] == -INFINITY ? 0.0f : exp2f(s[b] - top);
      state.sum += p;
#pragma unroll
      for (int c = 0; c < C; ++c) state.out[c] += p * as_float(now[b].item[c]);
    }
  }
#pragma unroll
  for (int d = lanes; d < 32; d *= 2) state.merge_lane(d);
  if (lane < lanes) {
#pragma unroll
    for (int c = 0; c < C; ++c) values[warp][first + c] = state.out[c];
  }
  if (lane == 0) {
    tops[warp] = state.most;
    sums[warp] = state.sum;
  }
  __syncthreads();
  float top = -INFINITY, total = 0, weight[kWarps];
  for (float x : tops) top = fmaxf(top, x);
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    weight[w] = top == -INFINITY ? 0.0f : exp2f(tops[w] - top);
    total += sums[w] * weight[w];
  }
  const bool whole = gridDim.z == 1;
  float* part = whole ? nullptr : part_at(a.scratch, pair, blockIdx.z, gridDim.z, dim);
  const float factor = whole ? (total > 0 ? 1.0f / total : 0.0f) : 1.0f;
  for (int c = threadIdx.x; c < dim; c += kWarps * 32) {
    float x = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) x += values[w][c] * weight[w];
    if (whole) {
      at(a.o, row, head)[c] = from_float<T>(x * factor);
    } else {
      part[c] = x;
    }
  }
  if (threadIdx.x != 0) return;
  if (!whole) {
    part[dim] = top;
    part[dim + 1] = total;
  } else if (a.lse) {
    a.lse[pair] = total > 0 ? (top + log2f(total)) * kScoreLn2 : -INFINITY;
  }
}

// Merges the parts of a query and head, one block each.
template <class T>
__global__ void __launch_bounds__(128) merge_kernel(IntervalForward<T> a, int64_t parts) {
  const int64_t pair = int64_t{blockIdx.x} * a.heads + blockIdx.y;
  const int dim = static_cast<int>(a.dim);
  float top = -INFINITY, total = 0;
  for (int64_t i = 0; i < parts; ++i) top = fmaxf(top, part_at(a.scratch, pair, i, parts, dim)[dim]);
  const float base = top == -INFINITY ? 0.0f : top;
  for (int64_t i = 0; i < parts; ++i) {
    const float* part = part_at(a.scratch, pair, i, parts, dim);
    total += part[dim + 1] * exp2f(part[dim] - base);
  }
  for (int c = threadIdx.x; c < dim; c += blockDim.x) {
    float x = 0;
    for (int64_t i = 0; i < parts; ++i) {
      const float* part = part_at(a.scratch, pair, i, parts, dim);
      x += part[c] * exp2f(part[dim] - base);
    }
    at(a.o, blockIdx.x, blockIdx.y)[c] = from_float<T>(total > 0 ? x / total : 0.0f);
  }
  if (a.lse && threadIdx.x == 0) a.lse[pair] = total > 0 ? (top + log2f(total)) * kScoreLn2 : -INFINITY;
}

template <class T, int lanes, int C>
void launch(const IntervalForward<T>& a, cudaStream_t stream) {
  const int64_t n = a.scratch ? parts(a.queries, a.keys, a.heads) : 1;
  const dim3 grid(static_cast<unsigned>(a.queries), static_cast<unsigned>(a.heads), static_cast<unsigned>(n));
  kernel<T, lanes, C><<<grid, kWarps * 32, 0, stream>>>(a);
  check_launch("attention_forward (rows)");
  if (n == 1) return;
  merge_kernel<<<dim3(grid.x, grid.y), 128, 0, stream>>>(a, n);
  check_launch("attention_forward (parts of rows)");
}

}  // namespace interval_rows_file

int64_t interval_rows_scratch_bytes(int64_t queries, int64_t keys, int64_t heads, int64_t dim) {
  const int64_t n = interval_rows_file::parts(queries, keys, heads);
  return n > 1 ? queries * heads * n * (dim + 2) * 4 : 0;
}

void interval_attention_rows(const IntervalForward<float>& a, void* stream_pointer) {
  using namespace interval_rows_file;
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  if (a.dim <= 64) return launch<float, 16, 4>(a, stream);
  if (a.dim <= 128) return launch<float, 32, 4>(a, stream);
  launch<float, 32, 8>(a, stream);
}

void interval_attention_rows(const IntervalForward<bf16>& a, void* stream_pointer) {
  using namespace interval_rows_file;
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  if (a.dim <= 64) return launch<bf16, 8, 8>(a, stream);
  if (a.dim <= 128) return launch<bf16, 16, 8>(a, stream);
  launch<bf16, 32, 8>(a, stream);
}

}  // namespace rattan::kernels::cuda
