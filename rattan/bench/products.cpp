#include "rattan/bench/products.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/randn.h>

#include <optional>

#include "rattan/bench/device.h"
#include "rattan/ops/ops.h"

namespace rattan::bench {

Products::Products(int64_t rows, int64_t d_model, int64_t width, bool backward, at::ScalarType dtype, at::Device device,
                   ops::Fp8 fp8)
    : fp8_(fp8) {
  auto random = [&](int64_t n, int64_t columns) {
    return at::randn({n, columns}, at::TensorOptions().dtype(dtype).device(device));
  };
  x_ = random(rows, d_model), mixed_ = random(rows, d_model);
  w_in_ = random(width, d_model), w_out_ = random(d_model, d_model);
  if (backward) d_proj_ = random(rows, width), d_y_ = random(rows, d_model);
  if (fp8 == ops::Fp8::off) return;
  ops::require_fp8(fp8, device);
  if (!backward) w_in_rows_ = ops::quantize_rows(w_in_), w_out_rows_ = ops::quantize_rows(w_out_);
}

void Products::run() {
  at::NoGradGuard no_grad;
  auto linear = [&](const at::Tensor& x, const at::Tensor& w, const ops::Fp8Rows& w_rows) {
    return fp8_ == ops::Fp8::off ? ops::linear(x, w) : ops::fp8_linear(x, w, fp8_, w_rows);
  };
  auto input_gradient = [&](const at::Tensor& d_y, const at::Tensor& w) {
    if (fp8_ == ops::Fp8::off) return ops::product(d_y, w);
    return ops::fp8_product(ops::quantize_rows(d_y), ops::quantize_rows(w.t().contiguous()), fp8_);
  };
  {
    std::optional<ops::FewRowsScope> few_rows;
    if (!d_y_.defined()) few_rows.emplace();
    linear(x_, w_in_, w_in_rows_);
    linear(mixed_, w_out_, w_out_rows_);
  }
  if (d_y_.defined()) {
    input_gradient(d_y_, w_out_), ops::product(d_y_.t(), mixed_);
    input_gradient(d_proj_, w_in_), ops::product(d_proj_.t(), x_);
  }
  synchronize(x_.device());
}

double Products::flops() const {
  const auto forward = 2.0 * static_cast<double>(x_.size(0) * (w_in_.numel() + w_out_.numel()));
  return d_y_.defined() ? 3 * forward : forward;
}

double Products::bytes() const { return static_cast<double>((w_in_.numel() + w_out_.numel()) * w_in_.element_size()); }

}  // namespace rattan::bench
