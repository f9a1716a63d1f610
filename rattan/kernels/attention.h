// Interval attention: softmax attention in which every query row sees one contiguous interval of key rows.
// Causal, sliding-window, packed, padded, prefix and cached attention are all of this form; the caller makes
// the intervals.
//
//   S[i,h,j] = scale * q[i,h]·k[j,kv(h)]      for begin[i] <= j < end[i]
//   lse[i,h] = log sum_j exp S[i,h,j]
//   o[i,h]   = sum_j exp(S[i,h,j] - lse[i,h]) v[j,kv(h)]
// with kv(h) = h / (heads / kv_heads). A row with an empty interval gets o = 0, lse = -inf, gradient 0.
//
// Backward, from the saved o and lse (which may be those of a softmax merged with further entries: P and
// delta then are the total ones and the result is exact, papers: FlashAttention-2, arXiv 2307.08691):
//   delta = do·o - d_lse;  P = exp(S - lse);  dv_j = sum_i P_ij do_i;  dS = P (do·v_j - delta);
//   dq_i = scale sum_j dS_ij k_j;  dk_j = scale sum_i dS_ij q_i.
//
// Types: float or bf16 for q, k, v, o and their gradients; statistics and sums in fp32. Results are bitwise
// the same from run to run and for every number of threads. Sizes may be zero. dim is any positive number
// (fast for multiples of 16).
#pragma once
#include "rattan/kernels/mxint8.h"

namespace rattan::kernels {

template <class T>
struct AttentionForward {
  int64_t queries = 0, keys = 0, heads = 0, kv_heads = 0, dim = 0;
  float scale = 1;
  const int32_t* begin = nullptr;  // [queries]
  const int32_t* end = nullptr;    // [queries]
  HeadsRef<const T> q;             // [queries, heads, dim]
  HeadsRef<const T> k, v;          // [keys, kv_heads, dim]
  HeadsRef<T> o;                   // [queries, heads, dim]
  float* lse = nullptr;            // [queries, heads]
};

// The same over keys and values in 8 bits, for decoding: each query reads its own keys.
template <class T>
struct AttentionCached {
  int64_t queries = 0, keys = 0, heads = 0, kv_heads = 0, dim = 0;
  float scale = 1;
  const int32_t* begin = nullptr;
  const int32_t* end = nullptr;
  HeadsRef<const T> q;             // [queries, heads, dim]
  Mxint8Heads<const int8_t> k, v;  // [keys, kv_heads, dim]
  HeadsRef<T> o;                   // [queries, heads, dim]
};

template <class T>
struct AttentionBackward {
  int64_t queries = 0, keys = 0, heads = 0, kv_heads = 0, dim = 0;
  float scale = 1;
  const int32_t* begin = nullptr;
  const int32_t* end = nullptr;
  HeadsRef<const T> q, k, v, o, d_o;
  const float* lse = nullptr;    // [queries, heads]
  const float* d_lse = nullptr;  // [queries, heads], optional: gradient of lse, for a later merge
  HeadsRef<T> dq, dk, dv;        // every element is written, also those no query sees (0)
};

void attention_forward(const AttentionForward<float>& a);
void attention_forward(const AttentionForward<bf16>& a);
void attention_cached(const AttentionCached<float>& a);
void attention_cached(const AttentionCached<bf16>& a);
void attention_backward(const AttentionBackward<float>& a);
void attention_backward(const AttentionBackward<bf16>& a);

namespace cuda {
// All pointers are device pointers; begin/end too. `scratch` is device memory of attention_backward_scratch_bytes(),
// `stream` a cudaStream_t.
void attention_forward(const AttentionForward<float>& a, void* stream);
void attention_forward(const AttentionForward<bf16>& a, void* stream);
// `scratch` is device memory of attention_cached_scratch_bytes().
int64_t attention_cached_scratch_bytes(int64_t queries, int64_t keys, int64_t heads, int64_t dim);
void attention_cached(const AttentionCached<float>& a, void* scratch, void* stream);
void attention_cached(const AttentionCached<bf16>& a, void* scratch, void* stream);
int64_t attention_backward_scratch_bytes(const AttentionBackward<float>& a);
int64_t attention_backward_scratch_bytes(const AttentionBackward<bf16>& a);
void attention_backward(const AttentionBackward<float>& a, void* scratch, void* stream);
void attention_backward(const AttentionBackward<bf16>& a, void* scratch, void* stream);
}  // namespace cuda

}  // namespace rattan::kernels
