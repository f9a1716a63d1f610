// Elementwise gates and activations, computed in fp32.
//   gelu(u)        = u Phi(u), Phi the normal distribution function (erf form, Hendrycks & Gimpel, arXiv 1606.08415)
//   swiglu(g, u)   = g sigmoid(g) u             (Shazeer, arXiv 2002.05202)
//   sigmoid_mul(z, y) = sigmoid(z) y            (output gate of RAT and of the gated RNN)
// Rows may be strided (they are often slices of one projection); outputs too.
#pragma once
#include "rattan/kernels/tensor_ref.h"

namespace rattan::kernels {

enum class Activation : int8_t { gelu, swiglu, sigmoid_mul };

// out = f(a) for gelu (b unused), f(a, b) else. All [rows, dim].
template <class T>
struct ActivationForward {
  Activation kind = Activation::gelu;
  int64_t rows = 0, dim = 0;
  RowsRef<const T> a, b;
  RowsRef<T> out;
};

template <class T>
struct ActivationBackward {
  Activation kind = Activation::gelu;
  int64_t rows = 0, dim = 0;
  RowsRef<const T> a, b, d_out;
  RowsRef<T> d_a, d_b;  // d_b unused for gelu; d_a may be d_out
};

void activation_forward(const ActivationForward<float>& a);
void activation_forward(const ActivationForward<bf16>& a);
void activation_backward(const ActivationBackward<float>& a);
void activation_backward(const ActivationBackward<bf16>& a);

namespace cuda {
void activation_forward(const ActivationForward<float>& a, void* stream);
void activation_forward(const ActivationForward<bf16>& a, void* stream);
void activation_backward(const ActivationBackward<float>& a, void* stream);
void activation_backward(const ActivationBackward<bf16>& a, void* stream);
}  // namespace cuda

}  // namespace rattan::kernels
