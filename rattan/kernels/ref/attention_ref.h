// Interval attention of kernels/attention.h in float64, score by score. Arrays are dense [rows, heads, dim].
#pragma once
#include <cstdint>
#include <vector>

namespace rattan::kernels::ref {

struct Attention {
  int64_t queries = 0, keys = 0, heads = 0, kv_heads = 0, dim = 0;
  double scale = 1;
  std::vector<int32_t> begin, end;  // [queries]
  std::vector<double> q;            // [queries, heads, dim]
  std::vector<double> k, v;         // [keys, kv_heads, dim]
};

struct AttentionOutput {
  std::vector<double> o;    // [queries, heads, dim]
  std::vector<double> lse;  // [queries, heads]
};

struct AttentionGradients {
  std::vector<double> dq;      // [queries, heads, dim]
  std::vector<double> dk, dv;  // [keys, kv_heads, dim]
};

AttentionOutput attention_forward(const Attention& a);
// `saved` is what the forward pass gave, or a softmax merged with further entries. d_lse: [queries, heads], or empty
// for zeros.
AttentionGradients attention_backward(const Attention& a, const AttentionOutput& saved, const std::vector<double>& d_o,
                                      const std::vector<double>& d_lse = {});

}  // namespace rattan::kernels::ref
