// Interval attention forward: which kernel takes it, and the one for any GPU and type: a block a tile of queries and
// head, keys streamed through shared memory with an online softmax.
#include <cmath>
#include <type_traits>

#include "rattan/kernels/cuda/interval_attention.h"
#include "rattan/kernels/cuda/intervals.cuh"
#include "rattan/kernels/cuda/launch.h"
#include "rattan/kernels/cuda/tensor_map.h"
#include "rattan/kernels/cuda/tile.cuh"

namespace rattan::kernels::cuda {

namespace interval_forward_file {

template <class T, int D>
struct Memory {
  using Shape = TileShape<T, D>;
  static constexpr int threads = Shape::rows * 2;  // a warp for each 16 query rows
  static constexpr int64_t bytes =
      int64_t{3 * Shape::size + Shape::score_size} * sizeof(T) + sizeof(Intervals<Shape::rows>);
};

template <class T, int D>
__global__ void __launch_bounds__(Memory<T, D>::threads) tile_kernel(IntervalForward<T> a) {
  using Shape = TileShape<T, D>;
  constexpr int R = Shape::rows, stride = Shape::stride, NS = R / 8, NO = D / 8;
  extern __shared__ uint4 memory[];
  T* q = reinterpret_cast<T*>(memory);
  T* k = q + Shape::size;
  T* v = k + Shape::size;
  T* p = v + Shape::size;
  auto& intervals = *reinterpret_cast<Intervals<R>*>(p + Shape::score_size);

  const int64_t row0 = int64_t{blockIdx.x} * R;
  const int head = blockIdx.y, kv_head = head / static_cast<int>(a.heads / a.kv_heads);
  const int dim = static_cast<int>(a.dim), lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 16;
  intervals.load(a.begin, a.end, row0, a.queries);
  __syncthreads();
  load_tile<T, D>(q, at(a.q, 0, head % a.q_heads), a.q.row, row0, intervals.seeing(), dim, a.vector);

  int low, high, begin[2], end[2];
  intervals.span(low, high);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    begin[i] = intervals.begin[warp_row + lane / 4 + i * 8];
    end[i] = intervals.end[warp_row + lane / 4 + i * 8];
  }
  const float scale = a.scale * kLog2e;
  float most[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};  // in units of log 2; sum: this lane's columns
  float out[NO][4];
  clear(out);
  T* scores = p + warp_row * Shape::score_stride;
  for (int64_t j0 = low; j0 < high; j0 += R) {
    const auto key0 = static_cast<int>(j0);
    const uint64_t seen = intervals.seen(key0);
    if (seen == 0) continue;
    load_tile<T, D>(k, at(a.k, 0, kv_head), a.k.row, key0, seen, dim, a.vector);
    load_tile<T, D>(v, at(a.v, 0, kv_head), a.v.row, key0, seen, dim, a.vector);
    wait_copies();
    __syncthreads();

    float s[NS][4];
    clear(s);
    product_nt<D>(s, q + warp_row * stride, stride, k, stride);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float top = most[i];
#pragma unroll
      for (int n = 0; n < NS; ++n) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          const int key = key0 + n * 8 + lane % 4 * 2 + c;
          float& x = s[n][i * 2 + c];
          x = key >= begin[i] && key < end[i] ? x * scale : -INFINITY;
          top = fmaxf(top, x);
        }
      }
      top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 1));
      top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 2));
      const float base = top == -INFINITY ? 0.0f : top;  // rows that have seen no key yet
      const float shrink = exp2f(most[i] - base);
      most[i] = top;
      sum[i] *= shrink;
#pragma unroll
      for (int n = 0; n < NO; ++n) {
        out[n][i * 2] *= shrink;
        out[n][i * 2 + 1] *= shrink;
      }
#pragma unroll
      for (int n = 0; n < NS; ++n) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          float& x = s[n][i * 2 + c];
          x = exp2f(x - base);
          sum[i] += x;
        }
      }
    }
    store_scores<T>(scores, Shape::score_stride, s);
    __syncwarp();
    product_nn<R>(out, scores, Shape::score_stride, v, stride);
    __syncthreads();
  }

  float factor[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    sum[i] += __shfl_xor_sync(kAllLanes, sum[i], 1);
    sum[i] += __shfl_xor_sync(kAllLanes, sum[i], 2);
    factor[i] = sum[i] > 0 ? 1.0f / sum[i] : 0.0f;
    const int64_t row = row0 + warp_row + lane / 4 + i * 8;
    if (a.lse && lane % 4 == 0 && row < a.queries) {
      a.lse[row * a.heads + head] = sum[i] > 0 ? (most[i] + log2f(sum[i])) * kLn2 : -INFINITY;
    }
  }
#pragma unroll
  for (int n = 0; n < NO; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) out[n][i] *= factor[i / 2];
  }
  store_rows(at(a.o, 0, head), a.o.row, row0 + warp_row, a.queries, 0, dim, out, 1.0f, false, a.vector);
}

template <class T, int D>
void launch_tiles(const IntervalForward<T>& a, cudaStream_t stream) {
  using M = Memory<T, D>;
  const auto kernel = tile_kernel<T, D>;
  allow_shared_memory(reinterpret_cast<const void*>(kernel), M::bytes, "attention_forward");
  const dim3 grid(static_cast<unsigned>(blocks_for(a.queries, M::Shape::rows)), static_cast<unsigned>(a.heads));
  kernel<<<grid, M::threads, M::bytes, stream>>>(a);
  check_launch("attention_forward");
}

// Few queries, sixteen keys or more for each: a step of many sequences. Up to 16 go this way however few keys there
// are, so that what a strict step of 16 sequences gives one of them does not depend on where the keys of the others
// stand; in a tile it would. More that share their keys do not: each would read all of them again.
template <class T>
bool has_few_rows(const IntervalForward<T>& a) {
  return a.queries <= 16 || (!a.shared_keys && a.queries <= 1024 && a.keys >= 16 * a.queries);
}

template <class T>
void launch(const IntervalForward<T>& a, cudaStream_t stream) {
  if (has_few_rows(a)) return interval_attention_rows(a, stream);
  if (a.dim <= 64) return launch_tiles<T, 64>(a, stream);
  if (a.dim <= 128) return launch_tiles<T, 128>(a, stream);
  launch_tiles<T, 256>(a, stream);
}

template <class T>
void run(IntervalForward<T>& a, void* stream) {
  if (a.queries == 0 || a.heads == 0 || a.dim == 0) return;
  check_dim("attention_forward", a.dim);
  a.vector = a.dim * sizeof(T) % 16 == 0 && aligned16(a.q) && aligned16(a.k) && aligned16(a.v) && aligned16(a.o) &&
             aligned16(a.own.value) && aligned16(a.own.gate);
  if constexpr (std::is_same_v<T, bf16>) {
    if (!has_few_rows(a) && a.vector && a.keys > 0 && a.dim <= 128 && a.scale > 0 && is_hopper()) {
      return interval_attention_forward_hopper(a, stream);
    }
  }
  launch(a, static_cast<cudaStream_t>(stream));
  if (a.own.score) merge_own_entries(a, stream);
}

}  // namespace interval_forward_file

void interval_attention_forward(IntervalForward<float> a, void* stream) { interval_forward_file::run(a, stream); }
void interval_attention_forward(IntervalForward<bf16> a, void* stream) { interval_forward_file::run(a, stream); }

}  // namespace rattan::kernels::cuda
