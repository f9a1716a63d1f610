// Gated linear recurrence over whole segments (the diagonal affine scan of a gated RNN).
//
//   g = sigmoid(g' + gate_bias);   h_t = g_t h_{t-1} + (1 - g_t) x_t       per channel, fp32 inside
// within each segment [begin, end) of token rows, from zeros or from row `from` of `initial`; the last state is
// left in row `to` of `final`; rows that no segment names are left alone. Several segments may start from one row
// (d_initial is then the sum); with `final` aliasing `initial`, none may write a row that another one reads. Tokens in
// no segment get h = 0 and gradient 0.
//
// Backward (recomputes h from x and g', keeps no fp32 stream): lam_t = dh_t + g_{t+1} lam_{t+1},
//   dx_t = (1-g_t) lam_t;  dg'_t = g_t (1-g_t) lam_t (h_{t-1} - x_t);  d_gate_bias = sum_t dg'_t;
//   d_initial = g_first lam_first.
// Source: RAT (arXiv 2507.04416), section 3.1; the RNN baseline of its experiments.
#pragma once
#include "rattan/kernels/tensor_ref.h"

namespace rattan::kernels {

struct ScanSegment {
  int32_t begin, end;  // token rows
  int32_t from, to;    // state rows, -1: none
};

template <class T>
struct GatedScanForward {
  int64_t tokens = 0, channels = 0, segments = 0;
  const ScanSegment* table = nullptr;  // [segments], ascending, disjoint
  RowsRef<const T> x, gate;            // [tokens, channels]
  const float* gate_bias = nullptr;    // [channels], optional (0)
  const float* initial = nullptr;      // [rows, channels], optional unless a `from` >= 0
  float* final = nullptr;              // [rows, channels], optional unless a `to` >= 0; may alias initial
  RowsRef<T> h;                        // [tokens, channels]
};

template <class T>
struct GatedScanBackward {
  int64_t tokens = 0, channels = 0, segments = 0;
  const ScanSegment* table = nullptr;
  RowsRef<const T> x, gate, d_h;
  const float* gate_bias = nullptr;
  const float* initial = nullptr;
  const float* d_final = nullptr;  // optional
  RowsRef<T> d_x, d_gate;          // every element is written
  float* d_gate_bias = nullptr;    // [channels], optional
  float* d_initial = nullptr;      // optional
};

void gated_scan_forward(const GatedScanForward<float>& a);
void gated_scan_forward(const GatedScanForward<bf16>& a);
void gated_scan_backward(const GatedScanBackward<float>& a);
void gated_scan_backward(const GatedScanBackward<bf16>& a);

namespace cuda {
int64_t gated_scan_forward_scratch_bytes(int64_t tokens, int64_t channels, int64_t segments);
int64_t gated_scan_backward_scratch_bytes(int64_t tokens, int64_t channels, int64_t segments);
void gated_scan_forward(const GatedScanForward<float>& a, void* scratch, void* stream);
void gated_scan_forward(const GatedScanForward<bf16>& a, void* scratch, void* stream);
void gated_scan_backward(const GatedScanBackward<float>& a, void* scratch, void* stream);
void gated_scan_backward(const GatedScanBackward<bf16>& a, void* scratch, void* stream);
}  // namespace cuda

}  // namespace rattan::kernels
