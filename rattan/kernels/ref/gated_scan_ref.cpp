#include "rattan/kernels/ref/gated_scan_ref.h"

#include <cmath>

namespace rattan::kernels::ref {
namespace gated_scan_ref_file {

double gate_at(const GatedScan& a, int64_t t, int64_t c) {
  double bias = a.gate_bias.empty() ? 0 : a.gate_bias[c];
  return 1 / (1 + std::exp(-(a.gate[t * a.channels + c] + bias)));
}

double initial_at(const GatedScan& a, const ScanSegment& segment, int64_t c) {
  return segment.from < 0 ? 0 : a.initial[segment.from * a.channels + c];
}

}  // namespace gated_scan_ref_file

GatedScanOutput gated_scan_forward(const GatedScan& a) {
  using namespace gated_scan_ref_file;
  GatedScanOutput out;
  out.h.assign(a.tokens * a.channels, 0);
  out.final.assign(a.state_rows * a.channels, 0);
  for (const ScanSegment& segment : a.table) {
    for (int64_t c = 0; c < a.channels; ++c) {
      double h = initial_at(a, segment, c);
      for (int64_t t = segment.begin; t < segment.end; ++t) {
        double g = gate_at(a, t, c);
        h = g * h + (1 - g) * a.x[t * a.channels + c];
        out.h[t * a.channels + c] = h;
      }
      if (segment.to >= 0) out.final[segment.to * a.channels + c] = h;
    }
  }
  return out;
}

GatedScanGradients gated_scan_backward(const GatedScan& a, const std::vector<double>& d_h,
                                       const std::vector<double>& d_final) {
  using namespace gated_scan_ref_file;
  GatedScanOutput forward = gated_scan_forward(a);
  GatedScanGradients out;
  out.d_x.assign(a.tokens * a.channels, 0);
  out.d_gate.assign(a.tokens * a.channels, 0);
  out.d_gate_bias.assign(a.channels, 0);
  out.d_initial.assign(a.state_rows * a.channels, 0);
  for (const ScanSegment& segment : a.table) {
    for (int64_t c = 0; c < a.channels; ++c) {
      double lambda = segment.to >= 0 && !d_final.empty() ? d_final[segment.to * a.channels + c] : 0;
      for (int64_t t = segment.end - 1; t >= segment.begin; --t) {
        int64_t i = t * a.channels + c;
        double g = gate_at(a, t, c);
        double h_before = t > segment.begin ? forward.h[i - a.channels] : initial_at(a, segment, c);
        lambda += d_h[i];
        out.d_x[i] = (1 - g) * lambda;
        out.d_gate[i] = g * (1 - g) * lambda * (h_before - a.x[i]);
        out.d_gate_bias[c] += out.d_gate[i];
        lambda *= g;
      }
      if (segment.from >= 0) out.d_initial[segment.from * a.channels + c] += lambda;
    }
  }
  return out;
}

}  // namespace rattan::kernels::ref
