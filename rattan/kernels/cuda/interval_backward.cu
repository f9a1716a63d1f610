// Two passes, neither with atomics: one block a tile of queries for dq, one block a tile of keys for dk and dv.
// Both recompute the scores; that costs two of seven products and makes every sum's order fixed.
//
// A block is RG x CG warps: RG groups of 16 rows, CG slices of the columns. A warp computes its slice of the
// score tile; the tile then goes through shared memory, and the warp computes its slice of the head dimension.
#include <cmath>
#include <type_traits>

#include "rattan/kernels/cuda/interval_attention.h"
#include "rattan/kernels/cuda/intervals.cuh"
#include "rattan/kernels/cuda/launch.h"
#include "rattan/kernels/cuda/tensor_map.h"
#include "rattan/kernels/cuda/tile.cuh"

namespace rattan::kernels::cuda {

namespace interval_backward_file {

template <class T, int D>
struct Memory {
  using Shape = TileShape<T, D>;
  static constexpr int row_groups = Shape::rows / 16;
  static constexpr int column_groups = Shape::rows == 32 ? 4 : 2;
  static constexpr int threads = 32 * row_groups * column_groups;
  static constexpr int blocks = Shape::rows == 64 ? 2 : 1;  // on one multiprocessor: at most 128 registers a thread
  static constexpr int NS = Shape::rows / column_groups / 8, ND = D / column_groups / 8;
  struct Rows {
    Intervals<Shape::rows> intervals;
    float lse[Shape::rows];  // times log2 e
    float delta[Shape::rows];
    unsigned active[Shape::rows];
  };
  static constexpr int64_t bytes = int64_t{4 * Shape::size + 2 * Shape::score_size} * sizeof(T) + sizeof(Rows);
};

// delta[r] = do[r] . o[r] - d_lse[r], unless it is given, do from its tile; lse. Threads share a row in equal numbers.
template <class T, int D, class U>
__device__ void load_statistics(typename Memory<T, D>::Rows& rows, const IntervalBackward<T, U>& a, const T* d_o,
                                int64_t row0, int head) {
  using M = Memory<T, D>;
  constexpr int V = 16 / sizeof(T), per_row = M::threads / M::Shape::rows;
  static_assert(per_row <= 32 && 32 % per_row == 0);
  const int r = threadIdx.x / per_row, part = threadIdx.x % per_row, dim = static_cast<int>(a.dim);
  const bool in = row0 + r < a.queries && rows.intervals.begin[r] < rows.intervals.end[r];
  float sum = 0;
  if (in && a.delta == nullptr) {
    const T* o = at(a.o, row0 + r, head);
    for (int c = part * V; c < dim; c += per_row * V) {
      if (a.vector) {
        const auto x = load_pack<V>(o + c), y = load_pack<V>(d_o + r * M::Shape::stride + c);
#pragma unroll
        for (int i = 0; i < V; ++i) sum += as_float(x.item[i]) * as_float(y.item[i]);
      } else {
        for (int i = c; i < dim && i < c + V; ++i) sum += as_float(o[i]) * as_float(d_o[r * M::Shape::stride + i]);
      }
    }
  }
#pragma unroll
  for (int d = per_row / 2; d > 0; d /= 2) sum += __shfl_xor_sync(kAllLanes, sum, d);
  if (part != 0) return;
  const int64_t row = (row0 + r) * a.heads + head;
  if (in && a.delta != nullptr) sum = a.delta[row];
  if (in && a.delta == nullptr && a.d_lse != nullptr) sum -= a.d_lse[row];
  rows.delta[r] = sum;
  rows.lse[r] = in ? a.lse[row] * kLog2e : 0.0f;
}

template <class T, int D, class U>
__global__ void __launch_bounds__(Memory<T, D>::threads, Memory<T, D>::blocks) query_kernel(IntervalBackward<T, U> a) {
  using M = Memory<T, D>;
  using Shape = typename M::Shape;
  constexpr int R = Shape::rows, stride = Shape::stride;
  extern __shared__ uint4 memory[];
  T* q = reinterpret_cast<T*>(memory);
  T* d_o = q + Shape::size;
  T* k = d_o + Shape::size;
  T* v = k + Shape::size;
  T* d_score = v + Shape::size;
  auto& rows = *reinterpret_cast<typename M::Rows*>(d_score + 2 * Shape::score_size);

  const int64_t row0 = int64_t{blockIdx.x} * R;
  const int dim = static_cast<int>(a.dim), lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int warp_row = warp % M::row_groups * 16, slice = warp / M::row_groups;
  const int group = static_cast<int>(a.heads / a.kv_heads);
  rows.intervals.load(a.begin, a.end, row0, a.queries);
  __syncthreads();
  const uint64_t seeing = rows.intervals.seeing();
  load_tile<T, D>(q, at(a.q, 0, blockIdx.y), a.q.row, row0, seeing, dim, a.vector);
  int low, high, begin[2], end[2];
  rows.intervals.span(low, high);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    begin[i] = rows.intervals.begin[warp_row + lane / 4 + i * 8];
    end[i] = rows.intervals.end[warp_row + lane / 4 + i * 8];
  }
  const float scale = a.scale * kLog2e;
  float dq[M::ND][4];
  clear(dq);
  for (int head = blockIdx.y; head < a.heads; head += static_cast<int>(a.q_heads)) {
    load_tile<T, D>(d_o, at(a.d_o, 0, head), a.d_o.row, row0, seeing, dim, a.vector);
    wait_copies();
    __syncthreads();
    load_statistics<T, D>(rows, a, d_o, row0, head);
    __syncthreads();
    float lse[2], delta[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      lse[i] = rows.lse[warp_row + lane / 4 + i * 8];
      delta[i] = rows.delta[warp_row + lane / 4 + i * 8];
    }
    for (int64_t j0 = low; j0 < high; j0 += R) {
      const auto key0 = static_cast<int>(j0);
      const uint64_t seen = rows.intervals.seen(key0);
      if (seen == 0) continue;
      load_tile<T, D>(k, at(a.k, 0, head / group), a.k.row, key0, seen, dim, a.vector);
      load_tile<T, D>(v, at(a.v, 0, head / group), a.v.row, key0, seen, dim, a.vector);
      wait_copies();
      __syncthreads();
      float s[M::NS][4], dp[M::NS][4];
      clear(s);
      clear(dp);
      const int column0 = slice * M::NS * 8;
      product_nt<D>(s, q + warp_row * stride, stride, k + column0 * stride, stride);
      product_nt<D>(dp, d_o + warp_row * stride, stride, v + column0 * stride, stride);
#pragma unroll
      for (int n = 0; n < M::NS; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int key = key0 + column0 + n * 8 + lane % 4 * 2 + i % 2;
          const bool visible = key >= begin[i / 2] && key < end[i / 2];
          s[n][i] = visible ? exp2f(s[n][i] * scale - lse[i / 2]) * (dp[n][i] - delta[i / 2]) : 0.0f;
        }
      }
      store_scores<T>(d_score + warp_row * Shape::score_stride + column0, Shape::score_stride, s);
      __syncthreads();
      product_nn<R>(dq, d_score + warp_row * Shape::score_stride, Shape::score_stride, k + slice * M::ND * 8, stride);
      __syncthreads();
    }
    __syncthreads();  // the statistics and do of this head are no longer read
  }
  wait_copies();
  store_rows(at(a.dq, 0, blockIdx.y), a.dq.row, row0 + warp_row, a.queries, slice * M::ND * 8, dim, dq, a.scale, false,
             a.vector_out);
}

template <class T, int D, class U>
__global__ void __launch_bounds__(Memory<T, D>::threads, Memory<T, D>::blocks) key_kernel(IntervalBackward<T, U> a) {
  using M = Memory<T, D>;
  using Shape = typename M::Shape;
  constexpr int R = Shape::rows, stride = Shape::stride;
  extern __shared__ uint4 memory[];
  T* q = reinterpret_cast<T*>(memory);
  T* d_o = q + Shape::size;
  T* k = d_o + Shape::size;
  T* v = k + Shape::size;
  T* score = v + Shape::size;
  T* d_score = score + Shape::score_size;
  auto& rows = *reinterpret_cast<typename M::Rows*>(d_score + Shape::score_size);

  const int64_t key0 = int64_t{blockIdx.x} * R;
  const int64_t key_limit = key0 + R < a.keys ? key0 + R : a.keys;
  const uint64_t key_mask = key_limit - key0 == 64 ? ~uint64_t{0} : (uint64_t{1} << (key_limit - key0)) - 1;
  const int dim = static_cast<int>(a.dim), lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int warp_row = warp % M::row_groups * 16, slice = warp / M::row_groups;
  const int kv_head = blockIdx.y, group = static_cast<int>(a.heads / a.kv_heads);
  load_tile<T, D>(k, at(a.k, 0, kv_head), a.k.row, key0, key_mask, dim, a.vector);
  load_tile<T, D>(v, at(a.v, 0, kv_head), a.v.row, key0, key_mask, dim, a.vector);
  const float scale = a.scale * kLog2e;
  float dk[M::ND][4], dv[M::ND][4];
  clear(dk);
  clear(dv);

  // Queries in windows of 32 tiles: first mark the tiles that see any key of this block, then visit those.
  for (int64_t window = 0; window < a.queries; window += 32 * R) {
    __syncthreads();
    for (int r = threadIdx.x; r < 32 * R; r += M::threads) {
      const int64_t row = window + r;
      const int64_t b = row < a.queries ? a.begin[row] : 0, e = row < a.queries ? a.end[row] : 0;
      const unsigned bits = __ballot_sync(kAllLanes, b < e && b < key_limit && e > key0);
      if (lane == 0) rows.active[r / 32] = bits;
    }
    __syncthreads();
    for (int tile = 0; tile < 32; ++tile) {
      unsigned bits;
      if constexpr (R == 64) bits = rows.active[2 * tile] | rows.active[2 * tile + 1];
      if constexpr (R == 32) bits = rows.active[tile];
      if constexpr (R == 16) bits = rows.active[tile / 2] >> tile % 2 * 16 & 0xffff;
      if (bits == 0) continue;
      const int64_t row0 = window + tile * R;
      rows.intervals.load(a.begin, a.end, row0, a.queries);
      __syncthreads();
      const uint64_t seeing = rows.intervals.seeing();
      for (int head = kv_head * group; head < (kv_head + 1) * group; ++head) {
        load_tile<T, D>(q, at(a.q, 0, head % a.q_heads), a.q.row, row0, seeing, dim, a.vector);
        load_tile<T, D>(d_o, at(a.d_o, 0, head), a.d_o.row, row0, seeing, dim, a.vector);
        wait_copies();
        __syncthreads();
        load_statistics<T, D>(rows, a, d_o, row0, head);
        __syncthreads();
        float s[M::NS][4], dp[M::NS][4];
        clear(s);
        clear(dp);
        const int column0 = slice * M::NS * 8;
        product_nt<D>(s, k + warp_row * stride, stride, q + column0 * stride, stride);
        product_nt<D>(dp, v + warp_row * stride, stride, d_o + column0 * stride, stride);
#pragma unroll
        for (int n = 0; n < M::NS; ++n) {
#pragma unroll
          for (int c = 0; c < 2; ++c) {
            const int column = column0 + n * 8 + lane % 4 * 2 + c;
            const int begin = rows.intervals.begin[column], end = rows.intervals.end[column];
            const float lse = rows.lse[column], delta = rows.delta[column];
#pragma unroll
            for (int i = 0; i < 2; ++i) {
              const int64_t key = key0 + warp_row + lane / 4 + i * 8;
              const bool visible = key >= begin && key < end;
              float &x = s[n][i * 2 + c], &dx = dp[n][i * 2 + c];
              x = visible ? exp2f(x * scale - lse) : 0.0f;
              dx = visible ? x * (dx - delta) : 0.0f;
            }
          }
        }
        store_scores<T>(score + warp_row * Shape::score_stride + column0, Shape::score_stride, s);
        store_scores<T>(d_score + warp_row * Shape::score_stride + column0, Shape::score_stride, dp);
        __syncthreads();
        const int dim0 = slice * M::ND * 8;
        product_nn<R>(dv, score + warp_row * Shape::score_stride, Shape::score_stride, d_o + dim0, stride);
        product_nn<R>(dk, d_score + warp_row * Shape::score_stride, Shape::score_stride, q + dim0, stride);
        __syncthreads();
      }
    }
  }
  wait_copies();
  const int dim0 = slice * M::ND * 8;
  store_rows(at(a.dk, 0, kv_head), a.dk.row, key0 + warp_row, a.keys, dim0, dim, dk, a.scale, a.accumulate,
             a.vector_out);
  store_rows(at(a.dv, 0, kv_head), a.dv.row, key0 + warp_row, a.keys, dim0, dim, dv, 1.0f, a.accumulate, a.vector_out);
}

template <class T, int D, class U>
void launch(const IntervalBackward<T, U>& a, cudaStream_t stream) {
  using M = Memory<T, D>;
  if (a.queries > 0) {
    const auto kernel = query_kernel<T, D, U>;
    allow_shared_memory(reinterpret_cast<const void*>(kernel), M::bytes, "attention_backward (queries)");
    const dim3 grid(static_cast<unsigned>(blocks_for(a.queries, M::Shape::rows)), static_cast<unsigned>(a.q_heads));
    kernel<<<grid, M::threads, M::bytes, stream>>>(a);
    check_launch("attention_backward (queries)");
  }
  if (a.keys > 0) {
    const auto kernel = key_kernel<T, D, U>;
    allow_shared_memory(reinterpret_cast<const void*>(kernel), M::bytes, "attention_backward (keys)");
    const dim3 grid(static_cast<unsigned>(blocks_for(a.keys, M::Shape::rows)), static_cast<unsigned>(a.kv_heads));
    kernel<<<grid, M::threads, M::bytes, stream>>>(a);
    check_launch("attention_backward (keys)");
  }
}

// Fills in what accesses are allowed.
template <class T, class U>
void check_alignment(IntervalBackward<T, U>& a) {
  a.vector = a.dim * sizeof(T) % 16 == 0 && aligned16(a.q) && aligned16(a.k) && aligned16(a.v) && aligned16(a.o) &&
             aligned16(a.d_o);
  a.vector_out = a.dim % 2 == 0 && aligned16(a.dq) && aligned16(a.dk) && aligned16(a.dv);
}

template <class U>
bool suits_hopper(const IntervalBackward<bf16, U>& a) {
  return a.vector && a.vector_out && a.keys > 0 && a.queries > 0 && a.heads > 0 && a.dim > 0 && a.dim <= 128 &&
         a.scale > 0 && is_hopper();
}

template <class T, class U>
void run(IntervalBackward<T, U>& a, void* stream_pointer) {
  if (a.heads == 0 || a.dim == 0) return;
  check_dim("attention_backward", a.dim);
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  check_alignment(a);
  if constexpr (std::is_same_v<T, bf16>) {
    if (suits_hopper(a)) return interval_backward_hopper(a, stream);
  }
  if (a.dim <= 64) return launch<T, 64>(a, stream);
  if (a.dim <= 128) return launch<T, 128>(a, stream);
  launch<T, 256>(a, stream);
}

template <class T, class U>
int64_t scratch_bytes(IntervalBackward<T, U> a) {
  check_alignment(a);
  if constexpr (std::is_same_v<T, bf16>) {
    if (suits_hopper(a)) return interval_backward_hopper_bytes(a);
  }
  return 0;
}

}  // namespace interval_backward_file

bool interval_backward_gates(const IntervalBackward<float, float>&) { return false; }
bool interval_backward_gates(IntervalBackward<bf16, float> a) {
  const GatedOutput<bf16>& g = a.gated;
  interval_backward_file::check_alignment(a);
  return interval_backward_file::suits_hopper(a) && aligned16(g.d_out) && aligned16(g.out) && aligned16(g.gate) &&
         aligned16(g.d_y) && aligned16(g.d_gate);
}

int64_t interval_backward_scratch_bytes(const IntervalBackward<float, float>& a) {
  return interval_backward_file::scratch_bytes(a);
}
int64_t interval_backward_scratch_bytes(const IntervalBackward<bf16, bf16>& a) {
  return interval_backward_file::scratch_bytes(a);
}
int64_t interval_backward_scratch_bytes(const IntervalBackward<bf16, float>& a) {
  return interval_backward_file::scratch_bytes(a);
}

void interval_attention_backward(IntervalBackward<float, float> a, void* stream) {
  interval_backward_file::run(a, stream);
}
void interval_attention_backward(IntervalBackward<bf16, bf16> a, void* stream) {
  interval_backward_file::run(a, stream);
}
void interval_attention_backward(IntervalBackward<bf16, float> a, void* stream) {
  interval_backward_file::run(a, stream);
}

}  // namespace rattan::kernels::cuda
