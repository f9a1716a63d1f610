// The gated linear recurrence of kernels/gated_scan.h in float64, one step after the other.
#pragma once
#include <cstdint>
#include <vector>

#include "rattan/kernels/gated_scan.h"

namespace rattan::kernels::ref {

struct GatedScan {
  int64_t tokens = 0, channels = 0, state_rows = 0;
  std::vector<ScanSegment> table;
  std::vector<double> x, gate;    // [tokens, channels]
  std::vector<double> gate_bias;  // [channels], empty: 0
  std::vector<double> initial;    // [state_rows, channels], empty: none is read
};

struct GatedScanOutput {
  std::vector<double> h;      // [tokens, channels]
  std::vector<double> final;  // [state_rows, channels]; rows that no segment names are 0
};

struct GatedScanGradients {
  std::vector<double> d_x, d_gate;  // [tokens, channels]
  std::vector<double> d_gate_bias;  // [channels]
  std::vector<double> d_initial;    // [state_rows, channels]; rows that no segment names are 0
};

GatedScanOutput gated_scan_forward(const GatedScan& a);
// d_final [state_rows, channels], empty: 0.
GatedScanGradients gated_scan_backward(const GatedScan& a, const std::vector<double>& d_h,
                                       const std::vector<double>& d_final);

}  // namespace rattan::kernels::ref
