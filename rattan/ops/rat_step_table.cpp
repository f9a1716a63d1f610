#include "rattan/ops/rat_step_table.h"

#include <ATen/ops/empty.h>

#include "rattan/kernels/rat.h"
#include "rattan/ops/launch.h"

namespace rattan::ops {

at::Tensor rat_step_table(const at::Tensor& rows, const at::Tensor& positions, int64_t chunk, int64_t ends) {
  require(rows.is_cuda() && rows.scalar_type() == at::kInt && positions.scalar_type() == at::kInt && rows.dim() == 1 &&
              positions.sizes() == rows.sizes() && rows.is_contiguous() && positions.is_contiguous(),
          "rat_step_table takes contiguous int32 rows and positions on a GPU, one of each for every token");
  require(chunk > 0 && ends > 0, "chunks and buffers of ends are not empty, got {} and {}", chunk, ends);
  at::Tensor table = at::empty({rows.size(0), sizeof(kernels::RatChunk) / sizeof(int32_t)}, rows.options());
#ifdef RATTAN_WITH_CUDA
  on_device(
      "rat_step_table", rows, [] {},
      [&](void* stream) {
        kernels::cuda::RatStepTable a;
        a.tokens = rows.size(0), a.chunk = chunk, a.ends = ends;
        a.rows = static_cast<const int32_t*>(rows.data_ptr());
        a.positions = static_cast<const int32_t*>(positions.data_ptr());
        a.table = static_cast<kernels::RatChunk*>(table.data_ptr());
        kernels::cuda::rat_step_table(a, stream);
      });
#endif
  return table;
}

}  // namespace rattan::ops
