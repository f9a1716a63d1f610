// Descriptions of [rows, heads, dim] tensors for Hopper's tensor copy engine, and where it is present.
#pragma once
#include <cuda.h>

#include "rattan/kernels/tensor_ref.h"

namespace rattan::kernels::cuda {

// True if the current device has compute capability 9.0, the one whose wgmma and tensor copies the kernels named
// *_hopper are written for.
bool is_hopper();

// Boxes of `box_rows` rows of one head, 64 channels wide, that arrive in shared memory as rows of 128 bytes in the
// 128-byte swizzle; what lies outside the tensor arrives as zeros. Coordinates: channel, head, row. Needs what
// aligned16() asks for, and 1 <= box_rows <= 256. Throws rattan::Error when the driver refuses.
CUtensorMap tensor_map(const HeadsRef<const bf16>& t, int64_t rows, int64_t heads, int64_t dim, int box_rows);
// The same with boxes of 32 channels.
CUtensorMap tensor_map(const HeadsRef<float>& t, int64_t rows, int64_t heads, int64_t dim, int box_rows);

}  // namespace rattan::kernels::cuda
