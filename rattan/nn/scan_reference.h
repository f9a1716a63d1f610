// The gated recurrence as tensor algebra, one step at a time: float64 truth, twice differentiable.
#pragma once
#include <ATen/core/Tensor.h>

#include <vector>

namespace rattan::nn {

// Runs of tokens that share no state: [begin, end) of the token rows, starting from row `from` of the initial
// state (-1: zeros).
struct ScanRun {
  int32_t begin, end, from;
};

struct ScanResult {
  at::Tensor h;     // [N, C]: h_t = g_t h_{t-1} + (1 - g_t) x_t, 0 on tokens in no run
  at::Tensor last;  // [runs, C]
};

// x, g [N, C] with g in (0, 1); initial [rows, C] or undefined.
ScanResult scan_reference(const at::Tensor& x, const at::Tensor& g, const std::vector<ScanRun>& runs,
                          const at::Tensor& initial);

}  // namespace rattan::nn
