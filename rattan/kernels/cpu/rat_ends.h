// The pass of RAT over whole chunks: their ends, the final states, and the states before later pieces.
#pragma once
#include "rattan/kernels/cpu/rat_tile.h"

namespace rattan::kernels::RATTAN_ISA {

// Copies the running states that chunks start from, since `final` may overwrite them.
inline void gather_running(const RatPlan& plan, const RatShape& shape, const RatChunk* table,
                           const HeadsRef<const float>& running_k, const HeadsRef<const float>& running_v,
                           const RatStates& states) {
  for (int64_t j = 0; j < shape.chunks; ++j) {
    int64_t row = plan.start_state[j];
    if (row < 0) continue;
    for (int64_t h = 0; h < shape.heads; ++h) {
      load_row(running_k.at(table[j].from, h), shape.dim, states.padded, states.k(row, h));
      load_row(running_v.at(table[j].from, h), shape.dim, states.padded, states.v(row, h));
    }
  }
}

// Runs chunk j of head h from its start; k and v [padded] receive the last state.
template <class T>
void run_chunk(const RatShape& shape, const RatPlan& plan, const RatChunk* table, const RowsRef<const T>& proj,
               const float* gate_bias, const RatStates& states, int64_t j, int64_t h, float* last_k, float* last_v) {
  RatColumns at(shape, h);
  int64_t before = plan.start_state[j], length = table[j].end - table[j].begin;
  for (int64_t c = 0; c < shape.dim; c += W) {
    int64_t lanes = shape.dim - c;
    Vec bias = load_lanes(gate_bias + at.z + c, lanes);
    Vec k = before < 0 ? zero() : load(states.k(before, h) + c);
    Vec v = before < 0 ? zero() : load(states.v(before, h) + c);
    for (int64_t i = 0; i < length; ++i) {
      if (i > 0 && i % rat_tile_tokens == 0) {
        int64_t row = plan.piece_state[j] + i / rat_tile_tokens - 1;
        store(states.k(row, h) + c, k);
        store(states.v(row, h) + c, v);
      }
      const T* x = proj.at(table[j].begin + i) + c;
      Vec g = sigmoid(load_lanes(x + at.g, lanes) + bias);
      Vec new_k = load_lanes(x + at.k, lanes), new_v = load_lanes(x + at.v, lanes);
      k = fma(g, k - new_k, new_k);
      v = fma(g, v - new_v, new_v);
    }
    store(last_k + c, k);
    store(last_v + c, v);
  }
}

}  // namespace rattan::kernels::RATTAN_ISA
