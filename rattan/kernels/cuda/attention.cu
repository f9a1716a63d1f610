// The public attention kernels: interval attention with as many query heads as heads.
#include "rattan/kernels/attention.h"
#include "rattan/kernels/cuda/interval_attention.h"

namespace rattan::kernels::cuda {

namespace attention_file {

template <class T>
void forward(const AttentionForward<T>& a, void* stream) {
  IntervalForward<T> f;
  f.queries = a.queries, f.keys = a.keys, f.dim = a.dim, f.scale = a.scale;
  f.heads = a.heads, f.q_heads = a.heads, f.kv_heads = a.kv_heads;
  f.begin = a.begin, f.end = a.end, f.q = a.q, f.k = a.k, f.v = a.v, f.o = a.o, f.lse = a.lse;
  interval_attention_forward(f, stream);
}

template <class T>
IntervalBackward<T, T> interval_backward(const AttentionBackward<T>& a) {
  IntervalBackward<T, T> b;
  b.queries = a.queries, b.keys = a.keys, b.dim = a.dim, b.scale = a.scale;
  b.heads = a.heads, b.q_heads = a.heads, b.kv_heads = a.kv_heads;
  b.begin = a.begin, b.end = a.end, b.q = a.q, b.k = a.k, b.v = a.v, b.o = a.o, b.d_o = a.d_o, b.lse = a.lse;
  b.d_lse = a.d_lse;
  b.dq = a.dq, b.dk = a.dk, b.dv = a.dv;
  return b;
}

template <class T>
void backward(const AttentionBackward<T>& a, void* scratch, void* stream) {
  IntervalBackward<T, T> b = interval_backward(a);
  b.scratch = scratch;
  interval_attention_backward(b, stream);
}

}  // namespace attention_file

void attention_forward(const AttentionForward<float>& a, void* stream) { attention_file::forward(a, stream); }
void attention_forward(const AttentionForward<bf16>& a, void* stream) { attention_file::forward(a, stream); }

int64_t attention_backward_scratch_bytes(const AttentionBackward<float>& a) {
  return interval_backward_scratch_bytes(attention_file::interval_backward(a));
}
int64_t attention_backward_scratch_bytes(const AttentionBackward<bf16>& a) {
  return interval_backward_scratch_bytes(attention_file::interval_backward(a));
}
void attention_backward(const AttentionBackward<float>& a, void* scratch, void* stream) {
  attention_file::backward(a, scratch, stream);
}
void attention_backward(const AttentionBackward<bf16>& a, void* scratch, void* stream) {
  attention_file::backward(a, scratch, stream);
}

}  // namespace rattan::kernels::cuda
