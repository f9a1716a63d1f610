// Rows of bf16 in shared memory as the copy engine lays them out and as accumulators hold them, for what the Hopper
// attention kernels do with outputs and their gates (hopper.cuh has both layouts).
#pragma once
#include "rattan/kernels/cuda/hopper.cuh"

namespace rattan::kernels::cuda {

// Two neighboring channels of a row in a tile of 64 rows.
__device__ inline unsigned& pair_at(bf16* tile, int row, int channel) {
  const int unit = channel % 64 / 8 ^ row % 8;
  return *reinterpret_cast<unsigned*>(tile + channel / 64 * 64 * 64 + row * 64 + unit * 8 + channel % 8);
}
__device__ inline float low_half(unsigned pair) { return __uint_as_float(pair << 16); }
__device__ inline float high_half(unsigned pair) { return __uint_as_float(pair & 0xffff0000u); }

__device__ inline float fast_inverse(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// All bits if `set`. Hidden from the compiler, which would rather branch.
__device__ inline unsigned mask_of(bool set) {
  unsigned mask = set ? ~0u : 0u;
  asm("" : "+r"(mask));
  return mask;
}

// Sends the 16 rows from `first` on of a tile of 64; called by a warp. They become row `row` and on of the tensor.
template <int D>
__device__ void send_rows(const CUtensorMap& map, const bf16* tile, int first, int head, int64_t row) {
  fence_async();
  __syncwarp();
  if (threadIdx.x % 32 != 0) return;
#pragma unroll
  for (int c = 0; c < D; c += 64) send_box(map, tile + c * 64 + first * 64, c, head, static_cast<int>(row));
  commit_sent();
}

}  // namespace rattan::kernels::cuda
