// Attention of one query over keys of its own by one block, for interval_rows.cu and rat_step.cu. The warps share the
// keys out; within a warp some lanes hold one key, 16 bytes each, and the keys of the next round are on their way while
// those of this one are used. Each group of lanes keeps a softmax of its own until the end, when all are merged in a
// fixed order.
#pragma once
#include <cmath>

#include "rattan/kernels/cuda/device.cuh"

namespace rattan::kernels::cuda {

constexpr int kRowWarps = 4, kRowThreads = kRowWarps * 32;
constexpr int kRowRound = 4;  // keys of a group of lanes that are loaded together

// Parts that a query's keys are cut into, one block each, where queries and heads are too few to fill a device. The
// mean number of keys a query decides, since the intervals lie on the device.
inline int64_t row_parts(int64_t queries, int64_t keys, int64_t heads) {
  constexpr int64_t most_blocks = 1056, most_parts = 64, least_keys = 256;  // eight blocks for 132 multiprocessors
  const int64_t blocks = queries * heads;
  if (blocks == 0 || blocks >= most_blocks / 2) return 1;
  const int64_t wanted = blocks_for(most_blocks, blocks), useful = keys / queries / least_keys;
  const int64_t n = wanted < useful ? wanted : useful;
  return n < 1 ? 1 : n < most_parts ? n : most_parts;
}

// Maximum (times log2 e), sum of exponentials and weighted values of some keys, for C channels.
template <int C>
struct RowSoftmax {
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

// C channels of a row from `first` on; zeros beyond dim and where not `in`.
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

// The keys [begin, end) of one head, for one block. lanes: of a key, C channels each; the groups of lanes of a warp
// have keys of their own.
template <class T, int lanes, int C>
struct RowKeys {
  static constexpr int groups = 32 / lanes, stride = kRowWarps * groups * kRowRound;
  HeadsRef<const T> keys, values;
  int64_t head, begin, end;
  int dim, first;
  bool vector;
  Pack<T, C> k[kRowRound], v[kRowRound];

  __device__ RowKeys(const HeadsRef<const T>& keys_in, const HeadsRef<const T>& values_in, int64_t head_in,
                     int64_t begin_in, int64_t end_in, int dim_in, bool vector_in)
      : keys(keys_in),
        values(values_in),
        head(head_in),
        begin(begin_in),
        end(end_in),
        dim(dim_in),
        first(static_cast<int>(threadIdx.x) % lanes * C),
        vector(vector_in) {
    load(own());
  }

  // q: this lane's channels, times the scale and log2 e.
  __device__ RowSoftmax<C> attend(const float (&q)[C]) {
    RowSoftmax<C> state;
    for (int64_t j0 = own(), base = begin; base < end; j0 += stride, base += stride) {
      float s[kRowRound], top = state.most;
#pragma unroll
      for (int b = 0; b < kRowRound; ++b) {
        s[b] = 0;
#pragma unroll
        for (int c = 0; c < C; ++c) s[b] += q[c] * as_float(k[b].item[c]);
      }
      Pack<T, C> now[kRowRound];
#pragma unroll
      for (int b = 0; b < kRowRound; ++b) now[b] = v[b];
      load(j0 + stride);
#pragma unroll
      for (int b = 0; b < kRowRound; ++b) {
#pragma unroll
        for (int d = lanes / 2; d > 0; d /= 2) s[b] += __shfl_xor_sync(kAllLanes, s[b], d);
        if (j0 + b >= end) s[b] = -INFINITY;
        top = fmaxf(top, s[b]);
      }
      state.shrink_to(top);
#pragma unroll
      for (int b = 0; b < kRowRound; ++b) {
        const float p = s[b] == -INFINITY ? 0.0f : exp2f(s[b] - top);
        state.sum += p;
#pragma unroll
        for (int c = 0; c < C; ++c) state.out[c] += p * as_float(now[b].item[c]);
      }
    }
    return state;
  }

 private:
  __device__ int64_t own() const {
    return begin +
           (static_cast<int>(threadIdx.x) / 32 * groups + static_cast<int>(threadIdx.x) % 32 / lanes) * kRowRound;
  }
  __device__ void load(int64_t j0) {
#pragma unroll
    for (int b = 0; b < kRowRound; ++b) {
      const bool in = j0 + b < end;
      k[b] = load_channels<T, C>(at(keys, in ? j0 + b : 0, head), first, dim, vector, in);
      v[b] = load_channels<T, C>(at(values, in ? j0 + b : 0, head), first, dim, vector, in);
    }
  }
};

// What the warps of a block found, brought together in shared memory.
template <int lanes, int C>
struct RowSums {
  float values[kRowWarps][lanes * C], tops[kRowWarps], sums[kRowWarps];

  // Called by the whole block; ends with a barrier.
  __device__ void put(RowSoftmax<C>& state) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
    for (int d = lanes; d < 32; d *= 2) state.merge_lane(d);
    if (lane < lanes) {
#pragma unroll
      for (int c = 0; c < C; ++c) values[warp][lane * C + c] = state.out[c];
    }
    if (lane == 0) {
      tops[warp] = state.most;
      sums[warp] = state.sum;
    }
    __syncthreads();
  }
};

// Maximum (times log2 e), sum, and the weights of the warps' values.
struct RowTotal {
  float top = -INFINITY, sum = 0, weight[kRowWarps];

  template <int lanes, int C>
  __device__ explicit RowTotal(const RowSums<lanes, C>& s) {
#pragma unroll
    for (int w = 0; w < kRowWarps; ++w) top = fmaxf(top, s.tops[w]);
#pragma unroll
    for (int w = 0; w < kRowWarps; ++w) {
      weight[w] = top == -INFINITY ? 0.0f : exp2f(s.tops[w] - top);
      sum += s.sums[w] * weight[w];
    }
  }
  template <int lanes, int C>
  __device__ float value(const RowSums<lanes, C>& s, int channel) const {
    float x = 0;
#pragma unroll
    for (int w = 0; w < kRowWarps; ++w) x += s.values[w][channel] * weight[w];
    return x;
  }
};

// The results of the parts of a query and head in scratch memory: dim weighted values, maximum, sum.
__device__ inline float* row_part(float* scratch, int64_t pair, int64_t part, int64_t parts, int dim) {
  return scratch + (pair * parts + part) * (dim + 2);
}

// All parts of a query and head merged.
struct RowParts {
  const float* first;
  int64_t parts;
  int dim;
  float top = -INFINITY, sum = 0;

  __device__ RowParts(float* scratch, int64_t pair, int64_t parts_in, int dim_in)
      : first(row_part(scratch, pair, 0, parts_in, dim_in)), parts(parts_in), dim(dim_in) {
    for (int64_t i = 0; i < parts; ++i) top = fmaxf(top, part(i)[dim]);
    for (int64_t i = 0; i < parts; ++i) sum += part(i)[dim + 1] * weight(i);
  }
  __device__ float value(int channel) const {
    float x = 0;
    for (int64_t i = 0; i < parts; ++i) x += part(i)[channel] * weight(i);
    return x;
  }

 private:
  __device__ const float* part(int64_t i) const { return first + i * (dim + 2); }
  __device__ float weight(int64_t i) const { return top == -INFINITY ? 0.0f : exp2f(part(i)[dim] - top); }
};

// Calls f.operator()<lanes, C>() with the lanes of a key and the channels of a lane.
template <class T, class F>
void with_row_lanes(int64_t dim, F&& f) {
  constexpr int V = 16 / sizeof(T), half = 64 / V;  // lanes of 64 channels
  if (dim <= 64) return f.template operator()<half, V>();
  if (dim <= 128) return f.template operator()<2 * half, V>();
  f.template operator()<32, 8>();
}

}  // namespace rattan::kernels::cuda
