#include "rattan/ops/fp8.h"

#include <ATen/ops/_scaled_mm.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "rattan/kernels/quantize_rows.h"
#include "rattan/ops/launch.h"
#include "rattan/ops/ops.h"
#include "rattan/ops/product_choice.h"

namespace rattan::ops {
namespace fp8_file {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

std::tuple<Tensor, Tensor> quantize(const Tensor& x_in) {
  require(x_in.dim() == 2, "rattan::quantize_rows: x must be [N, D], got {} dimensions", x_in.dim());
  const Tensor x = dense_last(x_in);
  Tensor values = at::empty(x.sizes(), x.options().dtype(at::kFloat8_e4m3fn));
  Tensor scale = at::empty({x.size(0)}, x.options().dtype(at::kFloat));
  with_type("quantize_rows", x.scalar_type(), [&]<class T>() {
    kernels::QuantizeRows<T> a;
    a.rows = x.size(0), a.dim = x.size(1);
    a.x = rows_ref<const T>(x), a.y = rows_ref<e4m3>(values), a.scale = pointer<float>(scale);
    RATTAN_LAUNCH("quantize_rows", x, quantize_rows, a);
  });
  return {values, scale};
}

Tensor product_of(const Fp8Rows& a, const Fp8Rows& b, Fp8 fp8, bool fast) {
  const int64_t m = a.values.size(0), n = b.values.size(0), k = a.values.size(1);
  require(k == b.values.size(1) && k % 16 == 0 && n % 16 == 0,
          "an fp8 product takes [M, D] and [N, D] with D and N multiples of 16, got {} x {} and {} x {}", m, k, n,
          b.values.size(1));
  if (m == 0) return at::empty({m, n}, a.scale.options().dtype(at::kBFloat16));
  const Tensor row_scale = a.scale.unsqueeze(1), column_scale = b.scale.unsqueeze(0);
  if (fp8 == Fp8::on)
    return at::_scaled_mm(a.values, b.values.t(), row_scale, column_scale, {}, {}, at::kBFloat16, fast);
  // Products of e4m3 are exact in fp32.
  const Tensor sums = product(a.values.to(at::kFloat), b.values.to(at::kFloat).t());
  return sums.mul_(row_scale).mul_(column_scale).to(at::kBFloat16);
}

class Fp8Linear : public torch::autograd::Function<Fp8Linear> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& weight, Fp8Rows weight_rows, Fp8 fp8) {
    at::AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({x, weight});
    ctx->saved_data["fp8"] = static_cast<int64_t>(fp8);
    if (!weight_rows.values.defined()) weight_rows = quantize_rows(weight);
    return product_of(quantize_rows(x), weight_rows, fp8, fp8_fast_sum_forward);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    require(!at::GradMode::is_enabled(), "fp8 products are differentiable once; use bf16 for second derivatives");
    const auto s = ctx->get_saved_variables();
    const auto fp8 = static_cast<Fp8>(ctx->saved_data["fp8"].toInt());
    const Tensor &x = s[0], &weight = s[1], &d_y = grads[0];
    Tensor d_x, d_weight;
    if (ctx->needs_input_grad(0))
      d_x = product_of(quantize_rows(d_y), quantize_rows(weight.t().contiguous()), fp8, fp8_fast_sum_backward);
    if (ctx->needs_input_grad(1)) d_weight = product(d_y.t(), x);
    return {d_x, d_weight, {}, {}};
  }
};

void kernels_of(torch::Library& m) { m.impl("quantize_rows", quantize); }

TORCH_LIBRARY_FRAGMENT(rattan, m) { m.def("quantize_rows(Tensor x) -> (Tensor values, Tensor scale)"); }
RATTAN_REGISTER(kernels_of)

}  // namespace fp8_file

void require_fp8(Fp8 fp8, [[maybe_unused]] at::Device device) {
  if (fp8 != Fp8::on) return;
#ifdef RATTAN_WITH_CUDA
  if (device.is_cuda() && kernels::cuda::has_fp8_products(device.index() < 0 ? 0 : device.index())) return;
#endif
  fail_input(
      "the device {} multiplies no fp8: that takes a GPU of compute capability 9.0 (H100) or later, as `rattan doctor` "
      "tells; use bf16, or fp8_emulated to see what the rounding does (slowly)",
      device.str());
}

Fp8Rows quantize_rows(const at::Tensor& x) {
  static auto op = handle<decltype(fp8_file::quantize)>("rattan::quantize_rows");
  auto [values, scale] = op.call(x);
  return {values, scale};
}

at::Tensor fp8_product(const Fp8Rows& a, const Fp8Rows& b, Fp8 fp8) {
  require_fp8(fp8, a.values.device());
  return fp8_file::product_of(a, b, fp8, fp8_fast_sum_forward);
}

at::Tensor fp8_linear(const at::Tensor& x, const at::Tensor& weight, Fp8 fp8, const Fp8Rows& weight_rows) {
  require_fp8(fp8, x.device());
  require(fp8 != Fp8::off, "fp8_linear is called with fp8 off; linear is what serves then");
  require(x.dim() >= 1 && weight.dim() == 2 && x.size(-1) == weight.size(1),
          "fp8_linear takes x [..., in] and weight [out, in]");
  require(x.scalar_type() == at::kBFloat16 && weight.scalar_type() == at::kBFloat16,
          "fp8 products are made from bfloat16 and give it, got {} and {}", c10::toString(x.scalar_type()),
          c10::toString(weight.scalar_type()));
  std::vector<int64_t> shape = x.sizes().vec();
  shape.back() = weight.size(0);
  const at::Tensor rows = x.reshape({-1, x.size(-1)});
  return fp8_file::Fp8Linear::apply(rows, weight, weight_rows, fp8).view(shape);
}

}  // namespace rattan::ops
