#include "rattan/bench/ceilings.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "rattan/bench/device.h"
#include "rattan/ops/ops.h"

namespace rattan::bench {

Ceilings measure_ceilings(int64_t rows, int64_t d_model, int64_t width, at::ScalarType dtype, at::Device device) {
  at::NoGradGuard no_grad;
  rows = std::min<int64_t>(rows, device.is_cuda() ? 1 << 18 : 1 << 13);  // enough to be at full speed
  const auto options = at::TensorOptions().dtype(dtype).device(device);
  const at::Tensor a = at::randn({rows, d_model}, options), b = at::randn({d_model, width}, options);
  const at::Tensor product = at::zeros({rows, width}, options);
  const int64_t copied = int64_t{device.is_cuda() ? 1 : 0} * (1 << 30) + (1 << 28);  // 256 MiB beats any CPU cache
  const at::Tensor source = at::zeros({copied}, options.dtype(at::kByte));
  at::Tensor target = at::zeros({copied}, options.dtype(at::kByte));
  const auto times = interleave({{.run = [&] { ops::product_into(product, a, b), synchronize(device); }},
                                 {.run = [&] { target.copy_(source), synchronize(device); }}},
                                {.seconds = 0.5, .min_rounds = 3, .max_rounds = 50});
  return {2.0 * static_cast<double>(rows * d_model * width) / times[0].low,
          2.0 * static_cast<double>(copied) / times[1].low};
}

}  // namespace rattan::bench
