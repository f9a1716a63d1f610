#include "rattan/ops/weight.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <torch/csrc/autograd/custom_function.h>

#include "rattan/base/error.h"
#include "rattan/ops/ops.h"

namespace rattan::ops {
namespace weight_file {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

class MasterLinear : public torch::autograd::Function<MasterLinear> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& master, const Tensor& value) {
    at::AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({x, master, value});
    return at::linear(x, value);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    require(!at::GradMode::is_enabled(),
            "products of masters are differentiable once; use fp32 for second derivatives");
    const auto s = ctx->get_saved_variables();
    const Tensor &x = s[0], &master = s[1], &value = s[2];
    const Tensor d_y = grads[0].reshape({-1, value.size(0)});
    Tensor d_x, d_master;
    if (ctx->needs_input_grad(0)) d_x = product(d_y, value).view_as(x);
    if (ctx->needs_input_grad(1)) d_master = weight_gradient(master, d_y, x.reshape({-1, x.size(-1)}));
    return {d_x, d_master, {}};
  }
};

}  // namespace weight_file

bool takes_gradient_directly(const at::Tensor& master, at::ScalarType compute) {
  return master.is_cuda() && master.dim() == 2 && master.scalar_type() == at::kFloat && compute == at::kBFloat16 &&
         master.is_leaf() && master.requires_grad() && at::GradMode::is_enabled();
}

at::Tensor weight_gradient(const at::Tensor& master, const at::Tensor& d_y, const at::Tensor& x) {
  at::NoGradGuard no_grad;
  at::Tensor sum = master.grad();
  if (!sum.defined() || !sum.is_contiguous() || sum.scalar_type() != at::kFloat) return at::mm(d_y.t(), x, at::kFloat);
  at::addmm_out(sum, sum, d_y.t(), x, at::kFloat);
  return {};
}

at::Tensor linear_of_master(const at::Tensor& x, const Weight& weight) {
  return weight_file::MasterLinear::apply(x, weight.master, weight.value);
}

}  // namespace rattan::ops
