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

// A ring [rows, cap], the entry of position t at slot t mod cap. Queries see entries of the ring and new tokens, in
// order; of the ring only what is seen is read, and only what is new is written, so that the rows of others cost
// nothing.
struct RingPlan {
  at::Tensor old;            // int64 [E]: flat ring rows that queries see
  at::Tensor keys;           // int64 [M]: rows of the concatenation [those E | new tokens], in order
  MaskSpec mask;             // over those M rows
  at::Tensor tokens, slots;  // int64: token rows that stay in the ring, and the flat ring rows they go to
};
RingPlan ring_plan(const Layout& layout, int64_t rows, int64_t cap);

// Every segment holds one token: the ring can be written first and attended in place.
bool single_tokens(const Layout& layout);
CachePlan ring_step_plan(const Layout& layout, int64_t rows, int64_t cap);

}  // namespace rattan::nn
