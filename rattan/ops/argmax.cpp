#include "rattan/kernels/argmax.h"

#include <ATen/ops/argmax.h>

#include "rattan/ops/launch.h"
#include "rattan/ops/ops.h"

namespace rattan::ops {

void argmax_into(const at::Tensor& index, const at::Tensor& x) {
#ifdef RATTAN_WITH_CUDA
  const bool types = x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16;
  if (x.is_cuda() && types && x.stride(1) == 1 && index.is_contiguous()) {
    return with_type("argmax", x.scalar_type(), [&]<class T>() {
      kernels::Argmax<T> a;
      a.rows = x.size(0), a.dim = x.size(1), a.x = rows_ref<const T>(x), a.index = pointer<int64_t>(index);
      on_device(
          "argmax", x, [] {}, [&](void* stream) { kernels::cuda::argmax(a, stream); });
    });
  }
#endif
  index.copy_(x.argmax(-1));
}

}  // namespace rattan::ops
