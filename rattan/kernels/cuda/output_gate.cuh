// The gradient through an output gate, made of tiles in shared memory.
#pragma once
#include <cfloat>

#include "rattan/kernels/cuda/row_tile.cuh"

namespace rattan::kernels::cuda {

// For two rows of a thread in tiles of 64, `first` and 8 after it: d_y (d_out before, rounded), d_gate (gate before)
// and delta = d_y·y of whole rows, as rat_gate makes them of out = sigmoid(gate) y. Rows that are not `real` get zeros.
template <int D>
__device__ void gate_rows(bf16* d_y, bf16* d_gate, bf16* out, int first, const bool (&real)[2], float (&delta)[2]) {
  constexpr int batch = 4;
  const int channel = threadIdx.x % 4 * 2;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int row = first + i * 8;
    const unsigned keep = mask_of(real[i]);
    float dot = 0;
#pragma unroll
    for (int start = 0; start < D / 8; start += batch) {
      unsigned d[batch], z[batch], o[batch];
#pragma unroll
      for (int n = 0; n < batch; ++n) {
        const int at = (start + n) * 8 + channel;
        d[n] = pair_at(d_y, row, at) & keep, z[n] = pair_at(d_gate, row, at) & keep,
        o[n] = pair_at(out, row, at) & keep;
      }
#pragma unroll
      for (int n = 0; n < batch; ++n) {
        const float gates[2] = {low_half(z[n]), high_half(z[n])}, outs[2] = {low_half(o[n]), high_half(o[n])};
        float ds[2] = {low_half(d[n]), high_half(d[n])}, dz[2], y[2];
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          // y = out / z; a gate so far closed that 1 / z overflows has out = 0.
          const float inverse = fminf(1.0f + fast_exp2(gates[e] * -kLog2e), FLT_MAX), open = fast_inverse(inverse);
          dz[e] = (1 - open) * ds[e] * outs[e];
          ds[e] *= open;
          y[e] = outs[e] * inverse;
        }
        d[n] = pack2(ds[0], ds[1]);  // delta belongs to the d_y that the attention reads
        z[n] = pack2(dz[0], dz[1]);
        dot += low_half(d[n]) * y[0] + high_half(d[n]) * y[1];
      }
#pragma unroll
      for (int n = 0; n < batch; ++n) {
        const int at = (start + n) * 8 + channel;
        pair_at(d_y, row, at) = d[n], pair_at(d_gate, row, at) = z[n];
      }
    }
    dot += __shfl_xor_sync(kAllLanes, dot, 1);
    delta[i] = dot + __shfl_xor_sync(kAllLanes, dot, 2);
  }
}

}  // namespace rattan::kernels::cuda
