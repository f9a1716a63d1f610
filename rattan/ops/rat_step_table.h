// The chunk table of a decoding step (kernels/rat.h) made on a GPU by one kernel.
#pragma once
#include <ATen/core/Tensor.h>

namespace rattan::ops {

// rows, positions int32 [n] on CUDA: the state row of each token and its position -> int32 [n, 7], for chunks of
// `chunk` tokens and buffers of `ends` ends a state row.
at::Tensor rat_step_table(const at::Tensor& rows, const at::Tensor& positions, int64_t chunk, int64_t ends);

}  // namespace rattan::ops
