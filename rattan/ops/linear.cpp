#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <torch/csrc/autograd/custom_function.h>

#include "rattan/kernels/matrix_product.h"
#include "rattan/ops/few_rows.h"
#include "rattan/ops/launch.h"
#include "rattan/ops/ops.h"
#include "rattan/ops/product_choice.h"

namespace rattan::ops {
namespace linear_file {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

bool is_fp32_on_cpu(const Tensor& t) { return t.is_cpu() && t.scalar_type() == at::kFloat; }

bool is_differentiable(const Tensor& a, const Tensor& b) {
  return at::GradMode::is_enabled() && (a.requires_grad() || b.requires_grad());
}

bool is_own_product(const Tensor& a, const Tensor& b, int64_t m, int64_t k, int64_t n) {
  return m * k * n >= own_product_least && is_fp32_on_cpu(a) && is_fp32_on_cpu(b) &&
         own_product_is_faster(kernels::active_isa());
}

kernels::MatrixRef<const float> matrix_ref(const Tensor& t) {
  return {static_cast<const float*>(t.data_ptr()), t.stride(0), t.stride(1)};
}

void own_product(const Tensor& c, const Tensor& a, const Tensor& b) {
  kernels::MatrixProduct p;
  p.m = a.size(0), p.n = b.size(1), p.k = a.size(1);
  p.a = matrix_ref(a), p.b = matrix_ref(b), p.c = rows_ref<float>(c);
  kernels::matrix_product(p);
}

Tensor own_product(const Tensor& a, const Tensor& b) {
  Tensor c = at::empty({a.size(0), b.size(1)}, a.options());
  own_product(c, a, b);
  return c;
}

bool product_is_own(const Tensor& a, const Tensor& b) {
  const bool fits = a.dim() == 2 && b.dim() == 2 && a.size(1) == b.size(0);
  return fits && !is_differentiable(a, b) && is_own_product(a, b, a.size(0), a.size(1), b.size(1));
}

// y = x w^T on rows x [N, in]; dx = dy w, dw = dy^T x.
class OwnLinear : public torch::autograd::Function<OwnLinear> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& weight) {
    ctx->save_for_backward({x, weight});
    return own_product(x, weight.t());
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto s = ctx->get_saved_variables();
    const Tensor &x = s[0], &weight = s[1], &d_y = grads[0];
    Tensor d_x, d_weight;
    if (ctx->needs_input_grad(0)) d_x = product(d_y, weight);
    if (ctx->needs_input_grad(1)) d_weight = product(d_y.t(), x);
    return {d_x, d_weight};
  }
};

std::vector<int64_t> output_shape(const Tensor& x, const Tensor& weight) {
  std::vector<int64_t> shape = x.sizes().vec();
  shape.back() = weight.size(0);
  return shape;
}

}  // namespace linear_file

at::Tensor product(const at::Tensor& a, const at::Tensor& b) {
  return linear_file::product_is_own(a, b) ? linear_file::own_product(a, b) : at::mm(a, b);
}

void product_into(at::Tensor c, const at::Tensor& a, const at::Tensor& b) {
  const bool rows = c.dim() == 2 && c.stride(1) == 1 && c.scalar_type() == a.scalar_type();
  if (!rows || c.size(0) != a.size(0) || c.size(1) != b.size(1) || !linear_file::product_is_own(a, b)) {
    at::mm_out(c, a, b);
  } else {
    linear_file::own_product(c, a, b);
  }
}

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight) {
  using namespace linear_file;
  const bool fits = x.dim() >= 1 && weight.dim() == 2 && x.size(-1) == weight.size(1) && x.numel() > 0;
  if (auto y = few_rows_linear(x, weight)) return *y;
  if (fits && x.is_cuda() && !is_differentiable(x, weight)) {
    // The product that at::linear comes to after ten calls, which cost the host more than a short prompt the device.
    const at::Tensor y = at::mm(x.dim() == 2 ? x : x.reshape({-1, x.size(-1)}), weight.t());
    return x.dim() == 2 ? y : y.view(output_shape(x, weight));
  }
  if (!fits || !is_own_product(x, weight, x.numel() / x.size(-1), x.size(-1), weight.size(0)))
    return at::linear(x, weight);
  const at::Tensor rows = x.reshape({-1, x.size(-1)});
  return OwnLinear::apply(rows, weight).view(output_shape(x, weight));
}

at::Tensor linear(const at::Tensor& x, const Weight& weight) {
  return weight.master.defined() && x.numel() > 0 ? linear_of_master(x, weight) : ops::linear(x, weight.value);
}

}  // namespace rattan::ops
