// Where the keys and values of a batch stand when a state holds earlier ones: index tables, made once per batch.
#pragma once
#include "rattan/nn/layout.h"

namespace rattan::nn {

// A growing cache [rows, entries]: new tokens are written to flat rows `slots`, then each query sees
// [begin, end) of the flat cache.
struct CachePlan {
  at::Tensor tokens, slots;  // int64: token rows (undefined: all, in order), and the flat cache rows they go to
  MaskSpec mask;             // over flat cache rows, one interval a token
};
CachePlan cache_plan(const Layout& layout, int64_t rows, int64_t entries);

// A ring [rows, cap], the entry of position t at slot t mod cap. Earlier and new keys are gathered in order from
// the concatenation [flat ring | new tokens]; the ring afterwards is gathered from the same.
struct RingPlan {
  at::Tensor keys;  // int64 [M]: rows of the concatenation that queries see, in order
  MaskSpec mask;    // over those M rows
  at::Tensor ring;  // int64 [rows * cap]: rows of the concatenation
};
RingPlan ring_plan(const Layout& layout, int64_t rows, int64_t cap);

// Every segment holds one token: the ring can be written first and attended in place.
bool single_tokens(const Layout& layout);
CachePlan ring_step_plan(const Layout& layout, int64_t rows, int64_t cap);

}  // namespace rattan::nn
