// What the passes of interval attention backward for Hopper share.
#pragma once
#include "rattan/kernels/cuda/interval_attention.h"

namespace rattan::kernels::cuda {

// Writes a warpgroup's accumulators, times `factor`, to global rows below `row_limit`, columns below `dim`; adds to
// what is there if `accumulate`. Rows allow accesses of two elements.
template <class U, int N>
__device__ void write_accumulators(const HeadsRef<U>& to, int head, int64_t row0, int64_t row_limit, int dim,
                                   const float (&acc)[N][4], float factor, bool accumulate) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t row = row0 + warp * 16 + lane / 4 + half * 8;
    if (row >= row_limit) continue;
    U* out = at(to, row, head);
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const int column = n * 8 + lane % 4 * 2;
      if (column >= dim) continue;
      float x = acc[n][half * 2] * factor, y = acc[n][half * 2 + 1] * factor;
      if (accumulate) {
        const auto old = load_pack<2>(out + column);
        x += as_float(old.item[0]);
        y += as_float(old.item[1]);
      }
      store_pack(out + column, Pack<U, 2>{from_float<U>(x), from_float<U>(y)});
    }
  }
}

}  // namespace rattan::kernels::cuda
