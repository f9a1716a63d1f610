// Elementwise: one thread takes one 16-byte piece of a row (one element where rows are not 16-byte aligned).
#include "rattan/kernels/activation.h"
#include "rattan/kernels/cuda/activation.cuh"
#include "rattan/kernels/cuda/dependent_launch.cuh"
#include "rattan/kernels/cuda/device.cuh"
#include "rattan/kernels/cuda/launch.h"

namespace rattan::kernels::cuda {

namespace activation_file {

constexpr int kThreads = 256;
constexpr float kInvSqrt2Pi = 0.39894228040143268f;

template <Activation kind>
__device__ float value(float a, float b) {
  if constexpr (kind == Activation::gelu) return gelu(a);
  const float s = sigmoid(a);
  if constexpr (kind == Activation::swiglu) return a * s * b;
  return s * b;
}

template <Activation kind>
__device__ void gradient(float a, float b, float d, float& da, float& db) {
  if constexpr (kind == Activation::gelu) {
    const float phi = normal_cdf(a);
    da = d * (phi + a * kInvSqrt2Pi * expf(-0.5f * a * a));
    db = 0;
    return;
  }
  const float s = sigmoid(a);
  if constexpr (kind == Activation::swiglu) {
    da = d * b * s * (1.0f + a * (1.0f - s));
    db = d * a * s;
  } else {
    da = d * b * s * (1.0f - s);
    db = d * s;
  }
}

template <class T, int V, Activation kind>
__global__ void forward_kernel(ActivationForward<T> a) {
  wait_for_stream();
  release_next();
  const int64_t pieces = a.dim / V, total = a.rows * pieces;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < total; i += int64_t{gridDim.x} * kThreads) {
    const int64_t row = i / pieces, column = (i - row * pieces) * V;
    const auto x = load_pack<V>(at(a.a, row) + column);
    Pack<T, V> y = x, out;
    if constexpr (kind != Activation::gelu) y = load_pack<V>(at(a.b, row) + column);
#pragma unroll
    for (int j = 0; j < V; ++j) out.item[j] = from_float<T>(value<kind>(as_float(x.item[j]), as_float(y.item[j])));
    store_pack(at(a.out, row) + column, out);
  }
}

template <class T, int V, Activation kind>
__global__ void backward_kernel(ActivationBackward<T> a) {
  const int64_t pieces = a.dim / V, total = a.rows * pieces;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < total; i += int64_t{gridDim.x} * kThreads) {
    const int64_t row = i / pieces, column = (i - row * pieces) * V;
    const auto x = load_pack<V>(at(a.a, row) + column);
    const auto d = load_pack<V>(at(a.d_out, row) + column);
    Pack<T, V> y = x, dx, dy;
    if constexpr (kind != Activation::gelu) y = load_pack<V>(at(a.b, row) + column);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      float da, db;
      gradient<kind>(as_float(x.item[j]), as_float(y.item[j]), as_float(d.item[j]), da, db);
      dx.item[j] = from_float<T>(da);
      dy.item[j] = from_float<T>(db);
    }
    store_pack(at(a.d_a, row) + column, dx);
    if constexpr (kind != Activation::gelu) store_pack(at(a.d_b, row) + column, dy);
  }
}

template <class T, int V>
void launch(const ActivationForward<T>& a, void* stream) {
  const auto s = static_cast<cudaStream_t>(stream);
  const unsigned blocks = strided_grid(a.rows * (a.dim / V), kThreads);
  switch (a.kind) {
    case Activation::gelu:
      launch_dependent("activation_forward", forward_kernel<T, V, Activation::gelu>, blocks, kThreads, 0, s, a);
      break;
    case Activation::swiglu:
      launch_dependent("activation_forward", forward_kernel<T, V, Activation::swiglu>, blocks, kThreads, 0, s, a);
      break;
    case Activation::sigmoid_mul:
      launch_dependent("activation_forward", forward_kernel<T, V, Activation::sigmoid_mul>, blocks, kThreads, 0, s, a);
      break;
  }
}

template <class T, int V>
void launch(const ActivationBackward<T>& a, void* stream) {
  const auto s = static_cast<cudaStream_t>(stream);
  const unsigned blocks = strided_grid(a.rows * (a.dim / V), kThreads);
  switch (a.kind) {
    case Activation::gelu:
      backward_kernel<T, V, Activation::gelu><<<blocks, kThreads, 0, s>>>(a);
      break;
    case Activation::swiglu:
      backward_kernel<T, V, Activation::swiglu><<<blocks, kThreads, 0, s>>>(a);
      break;
    case Activation::sigmoid_mul:
      backward_kernel<T, V, Activation::sigmoid_mul><<<blocks, kThreads, 0, s>>>(a);
      break;
  }
  check_launch("activation_backward");
}

template <class T>
void forward(const ActivationForward<T>& a, void* stream) {
  if (a.rows == 0 || a.dim == 0) return;
  constexpr int V = 16 / sizeof(T);
  const bool binary = a.kind != Activation::gelu;
  const bool vector = a.dim % V == 0 && aligned16(a.a) && aligned16(a.out) && (!binary || aligned16(a.b));
  vector ? launch<T, V>(a, stream) : launch<T, 1>(a, stream);
}

template <class T>
void backward(const ActivationBackward<T>& a, void* stream) {
  if (a.rows == 0 || a.dim == 0) return;
  constexpr int V = 16 / sizeof(T);
  const bool binary = a.kind != Activation::gelu;
  const bool vector = a.dim % V == 0 && aligned16(a.a) && aligned16(a.d_out) && aligned16(a.d_a) &&
                      (!binary || (aligned16(a.b) && aligned16(a.d_b)));
  vector ? launch<T, V>(a, stream) : launch<T, 1>(a, stream);
}

}  // namespace activation_file

void activation_forward(const ActivationForward<float>& a, void* stream) { activation_file::forward(a, stream); }
void activation_forward(const ActivationForward<bf16>& a, void* stream) { activation_file::forward(a, stream); }
void activation_backward(const ActivationBackward<float>& a, void* stream) { activation_file::backward(a, stream); }
void activation_backward(const ActivationBackward<bf16>& a, void* stream) { activation_file::backward(a, stream); }

}  // namespace rattan::kernels::cuda
