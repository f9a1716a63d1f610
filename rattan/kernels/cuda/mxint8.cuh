// Numbers to 8 bits and back on the device (mxint8.h).
#pragma once
#include "rattan/kernels/cuda/device.cuh"
#include "rattan/kernels/mxint8.h"

namespace rattan::kernels::cuda {

__device__ inline float mxint8_scale(uint32_t exponent) { return __uint_as_float(exponent << 23); }

struct Mxint8Code {
  int code;
  uint32_t exponent;
};
// Of a block of 32 that a warp holds, a number each, already rounded to what is stored; 0 beyond the row's end.
__device__ inline Mxint8Code mxint8_encode(float x) {
  const uint32_t top = __reduce_max_sync(kAllLanes, __float_as_uint(x) & 0x7fffffffu) >> 23;
  const uint32_t e = top == 255 ? 255 : top > 6 ? top - 6 : 0;
  if (e == 0 || e == 255) return {0, e};
  const int code = __float2int_rn(x * __uint_as_float((254 - e) << 23));
  return {max(-127, min(127, code)), e};
}

// Writes channel `channel` of a row, of which a warp holds the 32 of a block; x is rounded to T first.
template <class T>
__device__ void mxint8_put(const Mxint8Heads<int8_t>& to, int64_t row, int64_t head, int channel, int dim, float x) {
  const Mxint8Code y = mxint8_encode(channel < dim ? as_float(from_float<T>(x)) : 0.0f);
  if (channel >= dim) return;
  at(to.code, row, head)[channel] = static_cast<int8_t>(y.code);
  if (channel % mxint8_block == 0) {
    at(to.exponent, row, head)[channel / mxint8_block] = static_cast<uint8_t>(y.exponent);
  }
}

}  // namespace rattan::kernels::cuda
