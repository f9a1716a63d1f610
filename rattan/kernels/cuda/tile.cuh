// Tiles in shared memory and the two matrix products that attention is made of.
//
// A warp owns 16 rows of a product; its accumulators lie as mma.sync m16n8k16 leaves them: of each block of
// 8 columns, lane t holds columns 2 (t mod 4) and one more, of rows t / 4 (items 0, 1) and t / 4 + 8 (2, 3).
// bf16 goes through the tensor cores; float is summed by plain fused multiply-adds in the same layout, so one
// kernel serves both types.
#pragma once
#include "rattan/kernels/cuda/device.cuh"

namespace rattan::kernels::cuda {

// D: the head dimension rounded up to the next compiled one; missing columns hold zeros. Rows carry one
// 16-byte unit more than they need, so that the rows a warp reads together start in different banks.
// The number of rows keeps four tiles and the score tiles below 99 KB, which every GPU from sm_80 on has.
template <class T, int D>
struct TileShape {
  static constexpr int pad = 16 / sizeof(T);
  static constexpr int stride = D + pad;
  static constexpr int row_bytes = stride * sizeof(T);
  static constexpr int rows = row_bytes <= 272 ? 64 : row_bytes <= 528 ? 32 : 16;
  static constexpr int size = rows * stride;
  static constexpr int score_stride = rows + pad;
  static constexpr int score_size = rows * score_stride;
};

__device__ inline unsigned shared_address(const void* p) { return static_cast<unsigned>(__cvta_generic_to_shared(p)); }

// 16 bytes from global to shared memory in the background; zeros if not `in`.
__device__ inline void copy16_async(void* to, const void* from, bool in) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(in ? 16 : 0)
               : "memory");
}
__device__ inline void wait_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// Starts to fill a tile with rows `row0 + r` for the r whose bit in `mask` is set; other rows become zero.
// Call wait_copies() and __syncthreads() before use. `vector`: 16-byte accesses are allowed.
template <class T, int D>
__device__ void load_tile(T* tile, const T* base, int64_t row_stride, int64_t row0, uint64_t mask, int dim,
                          bool vector) {
  using Shape = TileShape<T, D>;
  constexpr int V = 16 / sizeof(T);
  if (vector) {
    for (int i = threadIdx.x; i < Shape::rows * (D / V); i += blockDim.x) {
      const int r = i / (D / V), c = i % (D / V) * V;
      const bool in = (mask >> r & 1) && c < dim;
      copy16_async(tile + r * Shape::stride + c, in ? base + (row0 + r) * row_stride + c : base, in);
    }
  } else {
    for (int i = threadIdx.x; i < Shape::rows * D; i += blockDim.x) {
      const int r = i / D, c = i % D;
      const bool in = (mask >> r & 1) && c < dim;
      tile[r * Shape::stride + c] = in ? base[(row0 + r) * row_stride + c] : from_float<T>(0.0f);
    }
  }
}

template <int count>
__device__ void clear(float (&acc)[count][4]) {
#pragma unroll
  for (int n = 0; n < count; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) acc[n][i] = 0;
  }
}

__device__ inline void load_matrices(unsigned (&r)[4], const void* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(p)));
}
__device__ inline void load_matrices_transposed(unsigned (&r)[4], const void* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(p)));
}
__device__ inline void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// acc[16, 8 N] += a[16, K] b[8 N, K]^T
template <int K, int N>
__device__ void product_nt(float (&acc)[N][4], const bf16* a, int a_stride, const bf16* b, int b_stride) {
  const int lane = threadIdx.x % 32;
  a += lane % 16 * a_stride + lane / 16 * 8;
#pragma unroll
  for (int k = 0; k < K; k += 16) {
    unsigned x[4], y[4];
    load_matrices(x, a + k);
    if constexpr (N == 1) {
      // Only the first two matrices are used; the upper lanes repeat their addresses.
      load_matrices(y, b + lane % 8 * b_stride + lane / 8 % 2 * 8 + k);
      multiply(acc[0], x, y[0], y[1]);
    } else {
      const bf16* p = b + (lane / 16 * 8 + lane % 8) * b_stride + lane / 8 % 2 * 8 + k;
#pragma unroll
      for (int n = 0; n < N; n += 2) {
        load_matrices(y, p + n * 8 * b_stride);
        multiply(acc[n], x, y[0], y[1]);
        multiply(acc[n + 1], x, y[2], y[3]);
      }
    }
  }
}

// acc[16, 8 N] += a[16, K] b[K, 8 N]
template <int K, int N>
__device__ void product_nn(float (&acc)[N][4], const bf16* a, int a_stride, const bf16* b, int b_stride) {
  static_assert(N % 2 == 0 && K % 16 == 0);
  const int lane = threadIdx.x % 32;
  a += lane % 16 * a_stride + lane / 16 * 8;
  b += lane % 16 * b_stride + lane / 16 * 8;
#pragma unroll
  for (int k = 0; k < K; k += 16) {
    unsigned x[4], y[4];
    load_matrices(x, a + k);
#pragma unroll
    for (int n = 0; n < N; n += 2) {
      load_matrices_transposed(y, b + k * b_stride + n * 8);
      multiply(acc[n], x, y[0], y[1]);
      multiply(acc[n + 1], x, y[2], y[3]);
    }
  }
}

template <int K, int N>
__device__ void product_nt(float (&acc)[N][4], const float* a, int a_stride, const float* b, int b_stride) {
  const int lane = threadIdx.x % 32;
  a += lane / 4 * a_stride;
  b += lane % 4 * 2 * b_stride;
#pragma unroll 2
  for (int k = 0; k < K; k += 4) {
    const auto x0 = load_pack<4>(a + k), x1 = load_pack<4>(a + 8 * a_stride + k);
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const auto y0 = load_pack<4>(b + n * 8 * b_stride + k), y1 = load_pack<4>(b + (n * 8 + 1) * b_stride + k);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        acc[n][0] += x0.item[i] * y0.item[i];
        acc[n][1] += x0.item[i] * y1.item[i];
        acc[n][2] += x1.item[i] * y0.item[i];
        acc[n][3] += x1.item[i] * y1.item[i];
      }
    }
  }
}

template <int K, int N>
__device__ void product_nn(float (&acc)[N][4], const float* a, int a_stride, const float* b, int b_stride) {
  const int lane = threadIdx.x % 32;
  a += lane / 4 * a_stride;
  b += lane % 4 * 2;
#pragma unroll 1
  for (int k = 0; k < K; k += 4) {
    const auto x0 = load_pack<4>(a + k), x1 = load_pack<4>(a + 8 * a_stride + k);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int n = 0; n < N; ++n) {
        const auto y = load_pack<2>(b + (k + i) * b_stride + n * 8);
        acc[n][0] += x0.item[i] * y.item[0];
        acc[n][1] += x0.item[i] * y.item[1];
        acc[n][2] += x1.item[i] * y.item[0];
        acc[n][3] += x1.item[i] * y.item[1];
      }
    }
  }
}

// Writes a warp's accumulators as T: columns 0 .. 8 N of its 16 rows in shared memory.
template <class T, int N>
__device__ void store_scores(T* rows, int stride, const float (&acc)[N][4]) {
  const int lane = threadIdx.x % 32;
  T* p = rows + lane / 4 * stride + lane % 4 * 2;
#pragma unroll
  for (int n = 0; n < N; ++n) {
    store_pack(p + n * 8, Pack<T, 2>{from_float<T>(acc[n][0]), from_float<T>(acc[n][1])});
    store_pack(p + 8 * stride + n * 8, Pack<T, 2>{from_float<T>(acc[n][2]), from_float<T>(acc[n][3])});
  }
}

// Writes a warp's accumulators, times `factor`, to global rows: columns first_column + 0 .. 8 N below `dim`,
// rows below `row_limit`; adds to what is there if `accumulate`.
template <class U, int N>
__device__ void store_rows(U* base, int64_t row_stride, int64_t row0, int64_t row_limit, int first_column, int dim,
                           const float (&acc)[N][4], float factor, bool accumulate, bool vector) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t row = row0 + lane / 4 + half * 8;
    if (row >= row_limit) continue;
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const int column = first_column + n * 8 + lane % 4 * 2;
      if (column >= dim) continue;
      U* p = base + row * row_stride + column;
      float u = acc[n][half * 2] * factor, v = acc[n][half * 2 + 1] * factor;
      if (vector) {
        if (accumulate) {
          const auto old = load_pack<2>(p);
          u += as_float(old.item[0]);
          v += as_float(old.item[1]);
        }
        store_pack(p, Pack<U, 2>{from_float<U>(u), from_float<U>(v)});
      } else {
        p[0] = from_float<U>(accumulate ? as_float(p[0]) + u : u);
        if (column + 1 < dim) p[1] = from_float<U>(accumulate ? as_float(p[1]) + v : v);
      }
    }
  }
}

}  // namespace rattan::kernels::cuda
