#include "rattan/bench/ceilings.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#ifdef RATTAN_WITH_CUDA
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#endif

#include "rattan/ops/ops.h"

namespace rattan::bench {

void synchronize([[maybe_unused]] at::Device device) {
#ifdef RATTAN_WITH_CUDA
  if (device.is_cuda()) {
    c10::cuda::CUDAGuard guard(device);
    c10::cuda::device_synchronize();
  }
#endif
}

Ceilings measure_ceilings(int64_t rows, int64_t d_model, int64_t width, at::ScalarType dtype, at::Device device) {
  at::NoGradGuard no_grad;
  rows = std::min<int64_t>(rows, device.is_cuda() ? 1 << 18 : 1 << 13);  // enough to be at full speed
  const auto options = at::TensorOptions().dtype(dtype).device(device);
  const at::Tensor a = at::randn({rows, d_model}, options), b = at::randn({d_model, width}, options);
  const at::Tensor product = at::zeros({rows, width}, options);
  const int64_t copied = int64_t{device.is_cuda() ? 1 : 0} * (1 << 30) + (1 << 28);  // 256 MiB beats any CPU cache
  const at::Tensor source = at::zeros({copied}, options.dtype(at::kByte));
  at::Tensor target = at::zeros({copied}, options.dtype(at::kByte));
  const auto times = interleave({{[&] { ops::product_into(product, a, b), synchronize(device); }},
                                 {[&] { target.copy_(source), synchronize(device); }}},
                                {.seconds = 0.5, .min_rounds = 3, .max_rounds = 50});
  return {2.0 * static_cast<double>(rows * d_model * width) / times[0].low,
          2.0 * static_cast<double>(copied) / times[1].low};
}

}  // namespace rattan::bench
