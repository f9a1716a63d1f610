// One block a row in forward; in backward a block takes a contiguous run of rows and keeps its part of
// d_weight, which column_sum adds up afterwards in a fixed order.
#include "rattan/kernels/cuda/device.cuh"
#include "rattan/kernels/cuda/launch.h"
#include "rattan/kernels/rms_norm.h"

namespace rattan::kernels::cuda {

namespace rms_norm_file {

constexpr int kThreads = 256;
constexpr int64_t kMaxParts = 528;             // four blocks for each of 132 multiprocessors
constexpr int64_t kSharedColumns = 12 * 1024;  // the most columns of d_weight that fit 48 KB

int64_t parts(int64_t rows) { return rows < kMaxParts ? rows : kMaxParts; }

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
      a.y[offset + c] = from_float<T>(s * r * a.weight[c]);
    }
  }
}

template <class T>
__global__ void backward_kernel(AddRmsNormBackward<T> a, float* partial, bool in_shared) {
  extern __shared__ float columns[];
  __shared__ float shared[32];
  const int64_t first = a.rows * blockIdx.x / gridDim.x, last = a.rows * (blockIdx.x + 1) / gridDim.x;
  float* part = partial + int64_t{blockIdx.x} * a.dim;
  float* d_weight = in_shared ? columns : part;
  for (int64_t c = threadIdx.x; c < a.dim; c += kThreads) d_weight[c] = 0;
  for (int64_t row = first; row < last; ++row) {
    const int64_t offset = row * a.dim;
    const float r = a.rstd[row];
    float dot = 0;
    for (int64_t c = threadIdx.x; c < a.dim; c += kThreads) {
      const float dy = as_float(a.d_y[offset + c]), s = a.sum[offset + c];
      dot += dy * a.weight[c] * s;
      d_weight[c] += dy * s * r;
    }
    const float factor = block_sum(dot, shared) / static_cast<float>(a.dim) * r * r * r;
    for (int64_t c = threadIdx.x; c < a.dim; c += kThreads) {
      float ds = r * as_float(a.d_y[offset + c]) * a.weight[c] - a.sum[offset + c] * factor;
      if (a.d_sum_in) ds += a.d_sum_in[offset + c];
      a.d_sum[offset + c] = ds;
      if (a.d_branch) a.d_branch[offset + c] = from_float<T>(ds);
    }
  }
  if (!in_shared) return;
  for (int64_t c = threadIdx.x; c < a.dim; c += kThreads) part[c] = columns[c];
}

template <class T>
void forward(const AddRmsNormForward<T>& a, void* stream) {
  if (a.rows == 0 || a.dim == 0) return;
  forward_kernel<<<static_cast<unsigned>(a.rows < (1 << 30) ? a.rows : (1 << 30)), kThreads, 0,
                   static_cast<cudaStream_t>(stream)>>>(a);
  check_launch("add_rms_norm_forward");
}

template <class T>
void backward(const AddRmsNormBackward<T>& a, void* scratch, void* stream) {
  if (a.dim == 0) return;
  if (a.rows == 0) return zero_async(a.d_weight, a.dim * 4, "add_rms_norm_backward", stream);
  auto* partial = static_cast<float*>(scratch);
  const bool in_shared = a.dim <= kSharedColumns - 64;
  backward_kernel<<<static_cast<unsigned>(parts(a.rows)), kThreads, in_shared ? a.dim * 4 : 0,
                    static_cast<cudaStream_t>(stream)>>>(a, partial, in_shared);
  check_launch("add_rms_norm_backward");
  column_sum(partial, parts(a.rows), a.dim, a.d_weight, stream);
}

}  // namespace rms_norm_file

// One fp32 row of d_weight a part.
int64_t add_rms_norm_backward_scratch_bytes(int64_t rows, int64_t dim) { return rms_norm_file::parts(rows) * dim * 4; }
void add_rms_norm_forward(const AddRmsNormForward<float>& a, void* stream) { rms_norm_file::forward(a, stream); }
void add_rms_norm_forward(const AddRmsNormForward<bf16>& a, void* stream) { rms_norm_file::forward(a, stream); }
void add_rms_norm_backward(const AddRmsNormBackward<float>& a, void* scratch, void* stream) {
  rms_norm_file::backward(a, scratch, stream);
}
void add_rms_norm_backward(const AddRmsNormBackward<bf16>& a, void* scratch, void* stream) {
  rms_norm_file::backward(a, scratch, stream);
}

}  // namespace rattan::kernels::cuda
