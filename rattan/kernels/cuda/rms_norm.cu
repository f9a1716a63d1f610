// One block a row in forward; in backward a block takes a contiguous run of rows and keeps its part of
// d_weight, which column_sum adds up afterwards in a fixed order.
//
// Rows of packs (8 elements, 16-byte accesses) stay in registers between the sum over the row and its use, so
// memory is read once. Other rows are read twice.
#include <initializer_list>

#include "rattan/kernels/cuda/dependent_launch.cuh"
#include "rattan/kernels/cuda/device.cuh"
#include "rattan/kernels/cuda/launch.h"
#include "rattan/kernels/rms_norm.h"

namespace rattan::kernels::cuda {

namespace rms_norm_file {

constexpr int kThreads = 256;                  // of a block that reads its row twice
constexpr int64_t kSharedColumns = 12 * 1024;  // the most columns of d_weight that fit 48 KB
constexpr int kPack = 8, kMaxWarps = 32;
constexpr int kForwardPacks = 2, kBackwardPacks = 1;  // a thread; a second one in backward costs too many registers
constexpr int64_t kMaxPackedDim = kPack * 32 * kMaxWarps;
constexpr int64_t kWarps = 132 * 32;  // of all blocks in backward: what 132 multiprocessors hold at 64 registers

// Warps that share a row when each thread takes `packs`.
int row_warps(int64_t dim, int packs) {
  const int64_t warps = blocks_for(dim, int64_t{kPack} * packs * 32);
  return static_cast<int>(warps < kMaxWarps ? warps : kMaxWarps);
}

int64_t parts(int64_t rows, int64_t dim) {
  const int64_t most = kWarps / row_warps(dim, kBackwardPacks);
  return rows < most ? rows : most;
}

__device__ inline float usable(float weight) {
  return fabsf(weight) < least_norm_weight ? copysignf(least_norm_weight, weight) : weight;
}

// Eight elements of a row as they lie in memory.
template <class T>
struct Eight {
  static constexpr int width = 16 / sizeof(T), count = kPack / width;
  Pack<T, width> part[count];

  // The kernel may write what it loads here, later and from the same thread.
  __device__ void load(const T* p) {
#pragma unroll
    for (int i = 0; i < count; ++i) part[i] = load_pack<width>(p + i * width);
  }
  __device__ void store(T* p) const {
#pragma unroll
    for (int i = 0; i < count; ++i) store_pack(p + i * width, part[i]);
  }
  __device__ float operator[](int i) const { return as_float(part[i / width].item[i % width]); }
  __device__ void set(int i, float x) { part[i / width].item[i % width] = from_float<T>(x); }
};

template <class T>
__device__ Eight<T> zeros() {
  Eight<T> x;
#pragma unroll
  for (int i = 0; i < kPack; ++i) x.set(i, 0);
  return x;
}

// Sum over the block of at most kMaxWarps warps. Calls in a loop must take turns with two arrays: then one barrier
// a call is enough.
__device__ float row_sum(float x, float (&shared)[kMaxWarps]) {
  x = warp_sum(x);
  const int warps = blockDim.x / 32;
  if (warps == 1) return x;
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  float sum = 0;
  for (int w = 0; w < warps; ++w) sum += shared[w];
  return sum;
}

// Column of this thread's pack k.
__device__ int64_t column(int k) { return (k * blockDim.x + threadIdx.x) * kPack; }

// One row a block: thousands of short blocks keep more of memory busy than a few that loop over rows.
template <class T, int K>
__global__ void __launch_bounds__(kMaxWarps * 32 / K) forward_packs_kernel(AddRmsNormForward<T> a) {
  wait_for_stream();
  release_next();
  __shared__ float shared[kMaxWarps];
  const int64_t offset = int64_t{blockIdx.x} * a.dim;
  Eight<float> s[K];
  Eight<T> branch[K];
#pragma unroll
  for (int k = 0; k < K; ++k) {
    s[k] = zeros<float>(), branch[k] = zeros<T>();
    if (column(k) >= a.dim) continue;
    s[k].load(a.x + offset + column(k));
    if (a.branch) branch[k].load(a.branch + offset + column(k));
  }
  float squares = 0;
#pragma unroll
  for (int k = 0; k < K; ++k) {
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      const float sum = s[k][i] + branch[k][i];
      s[k].set(i, sum);
      squares += sum * sum;
    }
  }
  const float r = rsqrtf(row_sum(squares, shared) / static_cast<float>(a.dim) + a.eps);
  if (threadIdx.x == 0) a.rstd[blockIdx.x] = r;
#pragma unroll
  for (int k = 0; k < K; ++k) {
    if (column(k) >= a.dim) continue;
    if (a.branch && a.sum) s[k].store(a.sum + offset + column(k));
    Eight<float> weight;
    weight.load(a.weight + column(k));
    Eight<T> y;
#pragma unroll
    for (int i = 0; i < kPack; ++i) y.set(i, s[k][i] * r * usable(weight[i]));
    y.store(a.y + offset + column(k));
  }
}

template <class T, int K>
__global__ void __launch_bounds__(kMaxWarps * 32 / K) backward_packs_kernel(AddRmsNormBackward<T> a, float* partial) {
  __shared__ float shared[2][kMaxWarps];
  const int64_t first = a.rows * blockIdx.x / gridDim.x, last = a.rows * (blockIdx.x + 1) / gridDim.x;
  Eight<float> weight[K], inverse[K], products[K];  // products: sum of dy y over rows
#pragma unroll
  for (int k = 0; k < K; ++k) {
    weight[k] = inverse[k] = products[k] = zeros<float>();
    if (column(k) >= a.dim) continue;
    weight[k].load(a.weight + column(k));
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      weight[k].set(i, usable(weight[k][i]));
      inverse[k].set(i, 1.0f / weight[k][i]);
    }
  }
  for (int64_t row = first; row < last; ++row) {
    const int64_t offset = row * a.dim;
    const float rstd = a.rstd[row];
    Eight<float> in[K];
    Eight<T> y[K], dy[K];
#pragma unroll
    for (int k = 0; k < K; ++k) {
      in[k] = zeros<float>(), y[k] = dy[k] = zeros<T>();
      if (column(k) >= a.dim) continue;
      dy[k].load(a.d_y + offset + column(k));
      y[k].load(a.y + offset + column(k));
      if (a.d_sum_in) in[k].load(a.d_sum_in + offset + column(k));
    }
    float dot = 0;
#pragma unroll
    for (int k = 0; k < K; ++k) {
#pragma unroll
      for (int i = 0; i < kPack; ++i) {
        const float product = dy[k][i] * y[k][i];
        dot += product;
        products[k].set(i, products[k][i] + product);
      }
    }
    const float mean = row_sum(dot, shared[row % 2]) / static_cast<float>(a.dim);
#pragma unroll
    for (int k = 0; k < K; ++k) {
      if (column(k) >= a.dim) continue;
      Eight<float> ds;
      Eight<T> d_branch;
#pragma unroll
      for (int i = 0; i < kPack; ++i) {
        ds.set(i, in[k][i] + rstd * (dy[k][i] * weight[k][i] - y[k][i] * inverse[k][i] * mean));
        d_branch.set(i, ds[i]);
      }
      ds.store(a.d_sum + offset + column(k));
      if (a.d_branch) d_branch.store(a.d_branch + offset + column(k));
    }
  }
#pragma unroll
  for (int k = 0; k < K; ++k) {
    if (column(k) >= a.dim) continue;
#pragma unroll
    for (int i = 0; i < kPack; ++i) products[k].set(i, products[k][i] * inverse[k][i]);
    products[k].store(partial + int64_t{blockIdx.x} * a.dim + column(k));
  }
}

template <class T>
__global__ void forward_kernel(AddRmsNormForward<T> a) {
  __shared__ float shared[32];
  for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
    const int64_t offset = row * a.dim;
    float squares = 0;
    for (int64_t c = threadIdx.x; c < a.dim; c += kThreads) {
      float s = a.x[offset + c];
      if (a.branch) {
        s += as_float(a.branch[offset + c]);
        if (a.sum) a.sum[offset + c] = s;
      }
      squares += s * s;
    }
    const float r = rsqrtf(block_sum(squares, shared) / static_cast<float>(a.dim) + a.eps);
    if (threadIdx.x == 0) a.rstd[row] = r;
    for (int64_t c = threadIdx.x; c < a.dim; c += kThreads) {
      // Each thread reads back what it wrote itself, so `sum` may be `x`.
      float s;
      if (a.branch && a.sum) {
        s = a.sum[offset + c];
      } else {
        s = a.x[offset + c];
        if (a.branch) s += as_float(a.branch[offset + c]);
      }
      a.y[offset + c] = from_float<T>(s * r * usable(a.weight[c]));
    }
  }
}

template <class T>
__global__ void backward_kernel(AddRmsNormBackward<T> a, float* partial, bool in_shared) {
  extern __shared__ float columns[];
  __shared__ float shared[32];
  const int64_t first = a.rows * blockIdx.x / gridDim.x, last = a.rows * (blockIdx.x + 1) / gridDim.x;
  float* part = partial + int64_t{blockIdx.x} * a.dim;
  float* products = in_shared ? columns : part;  // sum of dy y over rows
  for (int64_t c = threadIdx.x; c < a.dim; c += kThreads) products[c] = 0;
  for (int64_t row = first; row < last; ++row) {
    const int64_t offset = row * a.dim;
    const float r = a.rstd[row];
    float dot = 0;
    for (int64_t c = threadIdx.x; c < a.dim; c += kThreads) {
      const float product = as_float(a.d_y[offset + c]) * as_float(a.y[offset + c]);
      dot += product;
      products[c] += product;
    }
    const float mean = block_sum(dot, shared) / static_cast<float>(a.dim);
    for (int64_t c = threadIdx.x; c < a.dim; c += kThreads) {
      const float weight = usable(a.weight[c]);
      float ds = r * (as_float(a.d_y[offset + c]) * weight - as_float(a.y[offset + c]) / weight * mean);
      if (a.d_sum_in) ds += a.d_sum_in[offset + c];
      a.d_sum[offset + c] = ds;
      if (a.d_branch) a.d_branch[offset + c] = from_float<T>(ds);
    }
  }
  for (int64_t c = threadIdx.x; c < a.dim; c += kThreads) part[c] = products[c] / usable(a.weight[c]);
}

bool fits_packs(int64_t dim, std::initializer_list<const void*> rows) {
  for (const void* p : rows)
    if (reinterpret_cast<uintptr_t>(p) % 16 != 0) return false;
  return dim % kPack == 0 && dim <= kMaxPackedDim;
}

template <class T>
void forward(const AddRmsNormForward<T>& a, void* stream) {
  if (a.rows == 0 || a.dim == 0) return;
  constexpr int64_t most = (int64_t{1} << 31) - 1;
  const auto s = static_cast<cudaStream_t>(stream);
  const auto blocks = static_cast<unsigned>(a.rows < most ? a.rows : most);
  if (a.rows <= most && fits_packs(a.dim, {a.x, a.branch, a.weight, a.sum, a.y})) {
    launch_dependent("add_rms_norm_forward", forward_packs_kernel<T, kForwardPacks>, blocks,
                     row_warps(a.dim, kForwardPacks) * 32, 0, s, a);
  } else {
    forward_kernel<<<blocks, kThreads, 0, s>>>(a);
  }
  check_launch("add_rms_norm_forward");
}

template <class T>
void backward(const AddRmsNormBackward<T>& a, void* scratch, void* stream) {
  if (a.dim == 0) return;
  if (a.rows == 0) return zero_async(a.d_weight, a.dim * 4, "add_rms_norm_backward", stream);
  const auto s = static_cast<cudaStream_t>(stream);
  const auto blocks = static_cast<unsigned>(parts(a.rows, a.dim));
  auto* partial = static_cast<float*>(scratch);
  if (fits_packs(a.dim, {a.y, a.weight, a.d_y, a.d_sum_in, a.d_sum, a.d_branch, partial})) {
    backward_packs_kernel<T, kBackwardPacks><<<blocks, row_warps(a.dim, kBackwardPacks) * 32, 0, s>>>(a, partial);
  } else {
    const bool in_shared = a.dim <= kSharedColumns - 64;
    backward_kernel<<<blocks, kThreads, in_shared ? a.dim * 4 : 0, s>>>(a, partial, in_shared);
  }
  check_launch("add_rms_norm_backward");
  column_sum(partial, blocks, a.dim, a.d_weight, stream);
}

}  // namespace rms_norm_file

// One fp32 row of d_weight a part.
int64_t add_rms_norm_backward_scratch_bytes(int64_t rows, int64_t dim) {
  return dim == 0 ? 0 : rms_norm_file::parts(rows, dim) * dim * 4;
}
void add_rms_norm_forward(const AddRmsNormForward<float>& a, void* stream) { rms_norm_file::forward(a, stream); }
void add_rms_norm_forward(const AddRmsNormForward<bf16>& a, void* stream) { rms_norm_file::forward(a, stream); }
void add_rms_norm_backward(const AddRmsNormBackward<float>& a, void* scratch, void* stream) {
  rms_norm_file::backward(a, scratch, stream);
}
void add_rms_norm_backward(const AddRmsNormBackward<bf16>& a, void* scratch, void* stream) {
  rms_norm_file::backward(a, scratch, stream);
}

}  // namespace rattan::kernels::cuda
