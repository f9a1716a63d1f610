// One block a row: one pass for the maximum and the sum of exponentials (rescaled as the maximum grows),
// one for the gradient, which the cache serves for vocabularies of common size.
#include "rattan/kernels/cross_entropy.h"
#include "rattan/kernels/cuda/device.cuh"
#include "rattan/kernels/cuda/launch.h"

namespace rattan::kernels::cuda {

namespace cross_entropy_file {

constexpr int kThreads = 512;

// A target beyond the vocabulary gives a NaN loss: a kernel cannot throw, and NaN cannot be overlooked.
template <class T, int V>
__global__ void cross_entropy_kernel(CrossEntropy<T> a) {
  __shared__ float shared[32];
  for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
    T* x = at(a.logits, row);
    const int64_t target = a.target[row];
    if (target < 0) {
      if (threadIdx.x == 0) a.loss[row] = 0;
      if (a.gradient) {
        Pack<T, V> zero;
#pragma unroll
        for (int j = 0; j < V; ++j) zero.item[j] = from_float<T>(0.0f);
        for (int64_t c = int64_t{threadIdx.x} * V; c < a.vocabulary; c += kThreads * V) store_pack(x + c, zero);
      }
      continue;
    }
    float most = -INFINITY, sum = 0;
    for (int64_t c = int64_t{threadIdx.x} * V; c < a.vocabulary; c += kThreads * V) {
      const auto pack = load_pack<V>(x + c);
      float top = most;
#pragma unroll
      for (int j = 0; j < V; ++j) top = fmaxf(top, as_float(pack.item[j]));
      if (top > most) {
        sum *= expf(most - top);
        most = top;
      }
#pragma unroll
      for (int j = 0; j < V; ++j) {
        const float logit = as_float(pack.item[j]);
        sum += logit == -INFINITY ? 0.0f : expf(logit - most);  // NaN stays NaN
      }
    }
    const float top = block_max(most, shared);
    const float total = block_sum(sum == 0 ? 0.0f : sum * expf(most - top), shared);
    const float inverse = 1.0f / total;
    const float weight = a.weight ? a.weight[row] : 1.0f;
    if (threadIdx.x == 0) {
      const float picked = target < a.vocabulary ? as_float(x[target]) : NAN;
      a.loss[row] = weight * (logf(total) + (top - picked));  // exact for large logits too
    }
    if (!a.gradient) continue;
    __syncthreads();  // x[target] is read above before it is overwritten below
    for (int64_t c = int64_t{threadIdx.x} * V; c < a.vocabulary; c += kThreads * V) {
      auto pack = load_pack<V>(x + c);
#pragma unroll
      for (int j = 0; j < V; ++j) {
        const float p = expf(as_float(pack.item[j]) - top) * inverse;
        pack.item[j] = from_float<T>(weight * (c + j == target ? p - 1.0f : p));
      }
      store_pack(x + c, pack);
    }
  }
}

template <class T>
void run(const CrossEntropy<T>& a, void* stream) {
  if (a.rows == 0) return;
  constexpr int V = 16 / sizeof(T);
  const auto s = static_cast<cudaStream_t>(stream);
  const auto blocks = static_cast<unsigned>(a.rows < (1 << 30) ? a.rows : (1 << 30));
  if (a.vocabulary % V == 0 && aligned16(a.logits)) {
    cross_entropy_kernel<T, V><<<blocks, kThreads, 0, s>>>(a);
  } else {
    cross_entropy_kernel<T, 1><<<blocks, kThreads, 0, s>>>(a);
  }
  check_launch("cross_entropy");
}

}  // namespace cross_entropy_file

void cross_entropy(const CrossEntropy<float>& a, void* stream) { cross_entropy_file::run(a, stream); }
void cross_entropy(const CrossEntropy<bf16>& a, void* stream) { cross_entropy_file::run(a, stream); }

}  // namespace rattan::kernels::cuda
