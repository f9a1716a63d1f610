// Merges the rows' own entries into a finished attention (interval_attention.h): one warp a row and head.
#include "rattan/kernels/cuda/device.cuh"
#include "rattan/kernels/cuda/interval_attention.h"
#include "rattan/kernels/cuda/launch.h"

namespace rattan::kernels::cuda {

namespace own_entry_file {

constexpr int kThreads = 256;

template <class T, int E>
__global__ void __launch_bounds__(kThreads) kernel(IntervalForward<T> a) {
  const int64_t pair = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / 32;
  if (pair >= a.queries * a.heads) return;
  const int64_t row = pair / a.heads, head = pair - row * a.heads;
  const int dim = static_cast<int>(a.dim);
  const float others = a.lse[pair], score = a.own.score[pair], top = fmaxf(others, score);
  const bool none = top == -INFINITY;
  float w_others = none ? 0.0f : expf(others - top), w_own = none ? 0.0f : expf(score - top);
  const float total = w_others + w_own;
  w_others /= none ? 1.0f : total;
  w_own /= none ? 1.0f : total;
  float o[E], value[E], gate[E];
  load_lane(o, static_cast<const T*>(at(a.o, row, head)), dim, false);
  load_lane(value, at(a.own.value, row, head), dim, a.vector, w_own > 0);
  load_lane(gate, at(a.own.gate, row, head), dim, a.vector, !none);
#pragma unroll
  for (int e = 0; e < E; ++e) {
    o[e] = sigmoid(gate[e]) * (w_others * o[e] + w_own * value[e]);
  }
  store_lane(at(a.o, row, head), o, dim, a.vector);
  __syncwarp();
  if (threadIdx.x % 32 == 0) a.lse[pair] = none ? -INFINITY : top + logf(total);
}

template <class T>
void run(const IntervalForward<T>& a, void* stream) {
  const auto blocks = static_cast<unsigned>(blocks_for(a.queries * a.heads, kThreads / 32));
  const auto s = static_cast<cudaStream_t>(stream);
  if (a.dim <= 32) {
    kernel<T, 1><<<blocks, kThreads, 0, s>>>(a);
  } else if (a.dim <= 64) {
    kernel<T, 2><<<blocks, kThreads, 0, s>>>(a);
  } else if (a.dim <= 128) {
    kernel<T, 4><<<blocks, kThreads, 0, s>>>(a);
  } else {
    kernel<T, 8><<<blocks, kThreads, 0, s>>>(a);
  }
  check_launch("attention_forward (own entries)");
}

}  // namespace own_entry_file

void merge_own_entries(const IntervalForward<float>& a, void* stream) { own_entry_file::run(a, stream); }
void merge_own_entries(const IntervalForward<bf16>& a, void* stream) { own_entry_file::run(a, stream); }

}  // namespace rattan::kernels::cuda
