// Residual add and RMSNorm in one pass over the fp32 residual stream (Zhang & Sennrich, arXiv 1910.07467).
//
//   s = x + branch (or x);   r = 1/sqrt(mean(s^2) + eps);   y = s r weight
// Backward, with dy and the gradient d_s_in that reaches s along the residual stream, from y alone, which the
// projection behind the norm keeps anyway (so s may be overwritten, and half as much is read):
//   ds = d_s_in + r (dy weight - y / weight mean(dy y));   d_weight = sum_rows dy y / weight;   d_branch = ds (as T).
// So that y can always be divided by its weight, a weight nearer to 0 than 2^-60 counts as 2^-60 (with its sign).
// x, s and ds are fp32; branch, y and their gradients are T (float or bf16); weight fp32.
// d_weight sums rows in a fixed order.
#pragma once
#include "rattan/kernels/tensor_ref.h"

namespace rattan::kernels {

inline constexpr float least_norm_weight = 0x1p-60f;

template <class T>
struct AddRmsNormForward {
  int64_t rows = 0, dim = 0;
  float eps = 1e-6f;
  const float* x = nullptr;       // [rows, dim]
  const T* branch = nullptr;      // [rows, dim], optional
  const float* weight = nullptr;  // [dim]
  float* sum = nullptr;           // [rows, dim], optional (only with branch)
  T* y = nullptr;                 // [rows, dim]
  float* rstd = nullptr;          // [rows]
};

template <class T>
struct AddRmsNormBackward {
  int64_t rows = 0, dim = 0;
  const T* y = nullptr;  // as forward made it
  const float* weight = nullptr;
  const float* rstd = nullptr;
  const T* d_y = nullptr;
  const float* d_sum_in = nullptr;  // optional
  float* d_sum = nullptr;           // [rows, dim]
  T* d_branch = nullptr;            // [rows, dim], optional
  float* d_weight = nullptr;        // [dim], written
};

void add_rms_norm_forward(const AddRmsNormForward<float>& a);
void add_rms_norm_forward(const AddRmsNormForward<bf16>& a);
void add_rms_norm_backward(const AddRmsNormBackward<float>& a);
void add_rms_norm_backward(const AddRmsNormBackward<bf16>& a);

namespace cuda {
int64_t add_rms_norm_backward_scratch_bytes(int64_t rows, int64_t dim);
void add_rms_norm_forward(const AddRmsNormForward<float>& a, void* stream);
void add_rms_norm_forward(const AddRmsNormForward<bf16>& a, void* stream);
void add_rms_norm_backward(const AddRmsNormBackward<float>& a, void* scratch, void* stream);
void add_rms_norm_backward(const AddRmsNormBackward<bf16>& a, void* scratch, void* stream);
}  // namespace cuda

}  // namespace rattan::kernels
