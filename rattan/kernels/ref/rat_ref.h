// RAT mixing of kernels/rat.h in float64, token by token. Arrays are dense; ends and states are [rows, H, p].
#pragma once
#include <cstdint>
#include <vector>

#include "rattan/kernels/rat.h"

namespace rattan::kernels::ref {

struct Rat {
  RatShape shape;
  std::vector<RatChunk> table;
  std::vector<double> proj;                  // [N, width()]
  std::vector<double> gate_bias;             // [D]
  std::vector<double> cos, sin;              // [positions, p/2], empty: no rotation
  std::vector<double> ends_k, ends_v;        // [ends, H, p] as they are before
  std::vector<double> running_k, running_v;  // [rows, H, p]
};

struct RatOutput {
  std::vector<double> out, y;            // [N, D]
  std::vector<double> lse;               // [N, H]
  std::vector<double> ends_k, ends_v;    // as they are afterwards
  std::vector<double> final_k, final_v;  // [rows, H, p]; rows that no chunk names are 0
  std::vector<double> keys, values;      // [N, D] the running k~ and v~
};

struct RatGradients {
  std::vector<double> d_proj;                    // [N, width()]
  std::vector<double> d_gate_bias;               // [D]
  std::vector<double> d_ends_k, d_ends_v;        // total gradient of the ends' rows
  std::vector<double> d_running_k, d_running_v;  // rows that no chunk names are 0
};

RatOutput rat_forward(const Rat& a);
// d_ends_* and d_final_* are the gradients from outside; empty: 0.
struct RatUpstream {
  std::vector<double> d_out, d_ends_k, d_ends_v, d_final_k, d_final_v;
};
RatGradients rat_backward(const Rat& a, const RatUpstream& up);

}  // namespace rattan::kernels::ref
