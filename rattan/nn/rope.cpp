#include "rattan/nn/rope.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>

#include "rattan/ops/ops.h"

namespace rattan::nn {

at::Tensor rope(const at::Tensor& x, const at::Tensor& position, int64_t positions, double base) {
  const int64_t half = x.size(2) / 2;
  if (x.scalar_type() != at::kDouble) {
    auto [cos, sin] = ops::rope_tables(positions, x.size(2), base, x.device());
    return ops::rope(x, position, cos, sin);
  }
  at::Tensor exponent = at::arange(half, x.options()) * (-2.0 / static_cast<double>(x.size(2)));
  at::Tensor angle = (position.to(at::kDouble).unsqueeze(1) * (exponent * std::log(base)).exp()).unsqueeze(1);
  at::Tensor cos = angle.cos(), sin = angle.sin(), a = x.narrow(2, 0, half), b = x.narrow(2, half, half);
  return at::cat({a * cos - b * sin, b * cos + a * sin}, 2);
}

}  // namespace rattan::nn
