// Who does the softmax attention. Every softmax mixer asks its call's core, so that policies can change the
// attention of a model from outside and context parallelism can replace it.
#pragma once
#include "rattan/nn/call.h"

namespace rattan::nn {

// Keys and values as flat rows [rows, kv_heads, p]; a mask's begin and end are indices of rows.
struct KvView {
  at::Tensor k, v;
};

struct AttnIn {
  at::Tensor q;  // [queries, heads, p]
  KvView kv;
  const MaskSpec& mask;  // begin, end: int32 [queries]
  double scale = 1;
  at::Tensor bias;  // optional, [heads, queries, keys]
  bool extending = false;
};

struct AttnOut {
  at::Tensor o;    // [queries, heads, p]
  at::Tensor lse;  // [queries, heads], fp32 (float64 for float64 input); -inf where nothing is visible
};

class AttentionCore {
 public:
  virtual ~AttentionCore() = default;
  // o and lse are both differentiable.
  virtual AttnOut attend(const AttnIn& in, Call& call) = 0;
  virtual StateSpec state_spec(int /*slot*/) const { return {}; }
};

// The fused operator; float64, a bias and other cases it has no kernel for take the reference.
AttentionCore& default_core();
// Plain tensor algebra with a materialised score matrix: the truth, any dtype, twice differentiable.
AttentionCore& reference_core();

inline AttentionCore& core_of(const Call& call) { return call.core ? *call.core : default_core(); }

}  // namespace rattan::nn
