// The attention kernels behind attention.h and rat.h. Beyond attention.h: query head h reads row h mod q_heads
// of q (RAT shares queries between heads; q_heads = heads otherwise), and its gradient is the sum over them;
// gradients may be of another type, and dk, dv may be added to what is there.
#pragma once
#include "rattan/kernels/tensor_ref.h"

namespace rattan::kernels::cuda {

template <class T>
struct IntervalForward {
  int64_t queries = 0, keys = 0, heads = 0, q_heads = 0, kv_heads = 0, dim = 0;
  float scale = 1;
  const int32_t* begin = nullptr;
  const int32_t* end = nullptr;
  HeadsRef<const T> q, k, v;
  HeadsRef<T> o;
  float* lse = nullptr;  // [queries, heads]
  bool vector = false;   // q, k, v allow 16-byte accesses
};

template <class T, class U>
struct IntervalBackward {
  int64_t queries = 0, keys = 0, heads = 0, q_heads = 0, kv_heads = 0, dim = 0;
  float scale = 1;
  const int32_t* begin = nullptr;
  const int32_t* end = nullptr;
  HeadsRef<const T> q, k, v, o, d_o;
  const float* lse = nullptr;
  const float* d_lse = nullptr;  // [queries, heads], optional
  const float* delta = nullptr;  // [queries, heads], optional: d_o·o, if it is known already
  HeadsRef<U> dq;                // [queries, q_heads, dim]
  HeadsRef<U> dk, dv;            // [keys, kv_heads, dim]
  bool accumulate = false;       // add to dk, dv
  bool vector = false;           // q, k, v, o, d_o allow 16-byte accesses
  bool vector_out = false;       // dq, dk, dv allow accesses of two elements
};

void interval_attention_forward(IntervalForward<float> a, void* stream);
void interval_attention_forward(IntervalForward<bf16> a, void* stream);
void interval_attention_backward(IntervalBackward<float, float> a, void* stream);
void interval_attention_backward(IntervalBackward<bf16, bf16> a, void* stream);
void interval_attention_backward(IntervalBackward<bf16, float> a, void* stream);

}  // namespace rattan::kernels::cuda
