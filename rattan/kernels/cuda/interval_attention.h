// The attention kernels behind attention.h and rat.h. Beyond attention.h: query head h reads row h mod q_heads
// of q (RAT shares queries between heads; q_heads = heads otherwise), and its gradient is the sum over them;
// gradients may be of another type, and dk, dv may be added to what is there.
#pragma once
#include "rattan/kernels/tensor_ref.h"

namespace rattan::kernels::cuda {

// One more key and value of each row and head, seen by that row alone: its score and value are `score` and `value`
// (-inf: there is none), and the output is gated: y = softmax([S_j..., score]) over [v_j..., value], o = sigmoid(gate)
// y.
template <class T>
struct OwnEntry {
  const float* score = nullptr;  // [queries, heads]; null: no such entries and no gate
  HeadsRef<const T> value, gate;
};

template <class T>
struct IntervalForward {
  int64_t queries = 0, keys = 0, heads = 0, q_heads = 0, kv_heads = 0, dim = 0;
  float scale = 1;
  const int32_t* begin = nullptr;
  const int32_t* end = nullptr;
  HeadsRef<const T> q, k, v;
  HeadsRef<T> o;
  float* lse = nullptr;  // [queries, heads]; optional without own entries
  OwnEntry<T> own;
  float* scratch = nullptr;  // interval_rows_scratch_bytes(), optional: few queries may cut their keys into parts
  bool vector = false;       // q, k, v, o and the own entries allow 16-byte accesses
  bool shared_keys = false;  // queries that follow one another mostly see the same keys: a piece of text
};

// Outputs that were gated, out = sigmoid(gate) o, for a backward pass that starts from their gradient: it makes the
// gradient d_y of o, that of the gate, and delta = d_y·o. Rows whose interval begins before 0 are padding: all zeros.
template <class T>
struct GatedOutput {
  HeadsRef<const T> d_out, out, gate;
  HeadsRef<T> d_y, d_gate;
  float* delta = nullptr;  // [queries, heads]; null: outputs are not gated
};

// How the gradients are made on Hopper: those of queries apart from those of keys and values, or all in a joint pass.
// The rule stands in interval_backward_hopper.cu; tests and benchmarks ask for one of them.
enum class BackwardPasses { by_rule, two, joint };

template <class T, class U>
struct IntervalBackward {
  int64_t queries = 0, keys = 0, heads = 0, q_heads = 0, kv_heads = 0, dim = 0;
  float scale = 1;
  const int32_t* begin = nullptr;
  const int32_t* end = nullptr;
  HeadsRef<const T> q, k, v, o, d_o;
  const float* lse = nullptr;
  const float* d_lse = nullptr;  // [queries, heads], optional
  const float* delta = nullptr;  // [queries, heads], optional: d_o·o, if it is known already; o is not read then
  HeadsRef<U> dq;                // [queries, q_heads, dim]
  HeadsRef<U> dk, dv;            // [keys, kv_heads, dim]
  bool accumulate = false;       // add to dk, dv
  GatedOutput<T> gated;          // optional, if interval_backward_gates(): d_o and delta are its d_y and delta
  bool vector = false;           // q, k, v, o, d_o allow 16-byte accesses
  void* scratch = nullptr;       // device memory of interval_backward_scratch_bytes()
  bool vector_out = false;       // dq, dk, dv allow accesses of two elements
  BackwardPasses passes = BackwardPasses::by_rule;
  const int* joint = nullptr;  // of interval_query_hopper: on the device, whether it leaves dq to the joint pass
};

int64_t interval_backward_scratch_bytes(const IntervalBackward<float, float>& a);
int64_t interval_backward_scratch_bytes(const IntervalBackward<bf16, bf16>& a);
int64_t interval_backward_scratch_bytes(const IntervalBackward<bf16, float>& a);
void interval_attention_forward(IntervalForward<float> a, void* stream);
void interval_attention_forward(IntervalForward<bf16> a, void* stream);
void interval_attention_backward(IntervalBackward<float, float> a, void* stream);
void interval_attention_backward(IntervalBackward<bf16, bf16> a, void* stream);
void interval_attention_backward(IntervalBackward<bf16, float> a, void* stream);
// Whether the backward pass takes `gated` as it stands in `a`.
bool interval_backward_gates(const IntervalBackward<float, float>& a);
bool interval_backward_gates(IntervalBackward<bf16, float> a);

// The forward pass of few queries that each have keys of their own, but for their own entries.
int64_t interval_rows_scratch_bytes(int64_t queries, int64_t keys, int64_t heads, int64_t dim);
void interval_attention_rows(const IntervalForward<float>& a, void* stream);
void interval_attention_rows(const IntervalForward<bf16>& a, void* stream);

// Turns o and lse of the attention without the own entries into those with them. Part of the forward pass.
void merge_own_entries(const IntervalForward<float>& a, void* stream);
void merge_own_entries(const IntervalForward<bf16>& a, void* stream);

// Both passes for Hopper, which the functions above call where they can: bf16, rows of 16-byte units, dim <= 128, a
// positive scale. interval_query_hopper is the part of backward that makes dq; `delta` must be given.
void interval_attention_forward_hopper(const IntervalForward<bf16>& a, void* stream);
template <class U>
void interval_backward_hopper(const IntervalBackward<bf16, U>& a, void* stream);
template <class U>
int64_t interval_backward_hopper_bytes(const IntervalBackward<bf16, U>& a);
template <class U>
void interval_query_hopper(const IntervalBackward<bf16, U>& a, void* stream);

}  // namespace rattan::kernels::cuda
