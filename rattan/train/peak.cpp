#include "rattan/train/peak.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>

#include <algorithm>
#include <chrono>

namespace rattan::train {

double measure_peak_flops(at::ScalarType dtype, at::Device device) {
  using Clock = std::chrono::steady_clock;
  at::NoGradGuard no_grad;
  int64_t n = device.is_cpu() ? 1024 : 8192;
  // Random values: with equal ones a GPU draws less power, keeps a higher clock and is faster than in any model.
  at::Tensor a = at::randn({n, n}, at::TensorOptions().dtype(dtype).device(device));
  at::Tensor out = at::mm(a, a);
  double best = 0;
  auto start = Clock::now();
  for (int i = 0; i < 100 && Clock::now() - start < std::chrono::milliseconds(500); ++i) {
    auto begin = Clock::now();
    at::mm_out(out, a, a);
    out.select(0, 0).select(0, 0).item();  // waits for the device
    double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    best = std::max(best, 2.0 * static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(n) / seconds);
  }
  return best;
}

}  // namespace rattan::train
