#include "rattan/kernels/rms_norm.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "rattan/ops/launch.h"
#include "rattan/ops/ops.h"

namespace rattan::ops {
namespace rms_norm_file {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& x_in, const OptionalTensor& branch_in, const Tensor& weight,
                                           double eps, at::ScalarType dtype) {
  const Tensor x = x_in.contiguous(), branch = branch_in ? branch_in->contiguous() : Tensor();
  require(x.scalar_type() == at::kFloat && weight.scalar_type() == at::kFloat && weight.numel() == x.size(-1),
          "rattan::add_rms_norm: x [..., D] and weight [D] must be float32");
  require(!branch.defined() || (branch.sizes() == x.sizes() && branch.scalar_type() == dtype),
          "rattan::add_rms_norm: the branch must have x's shape and the output's type");
  Tensor sum = branch.defined() ? at::empty_like(x) : x;
  Tensor y = at::empty(x.sizes(), x.options().dtype(dtype));
  Tensor rstd = at::empty({x.numel() / std::max<int64_t>(1, x.size(-1))}, x.options());
  with_type("add_rms_norm", dtype, [&]<class T>() {
    kernels::AddRmsNormForward<T> a;
    a.rows = rstd.numel(), a.dim = x.size(-1), a.eps = static_cast<float>(eps);
    a.x = pointer<const float>(x), a.branch = pointer<const T>(branch), a.weight = pointer<const float>(weight);
    a.sum = branch.defined() ? pointer<float>(sum) : nullptr;
    a.y = pointer<T>(y), a.rstd = pointer<float>(rstd);
    RATTAN_LAUNCH("add_rms_norm", x, add_rms_norm_forward, a);
  });
  // An operator may not return its input: without a branch the sum is an alias of x by contract of ops.h only.
  return {branch.defined() ? sum : at::empty({0}, x.options()), y, rstd};
}

std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& y_in, const Tensor& weight, const Tensor& rstd,
                                            const Tensor& d_y_in, const OptionalTensor& d_sum_in, bool with_branch) {
  const Tensor d_y = d_y_in.contiguous(), y = y_in.contiguous();
  require(y.scalar_type() == d_y.scalar_type() && y.sizes() == d_y.sizes(),
          "rattan::add_rms_norm_backward: d_y must have the shape and the type of y");
  const Tensor d_in = d_sum_in ? d_sum_in->contiguous() : Tensor();
  Tensor d_sum = at::empty(y.sizes(), rstd.options()), d_weight = at::empty_like(weight);
  Tensor d_branch = with_branch ? at::empty_like(d_y) : Tensor();
  with_type("add_rms_norm", d_y.scalar_type(), [&]<class T>() {
    kernels::AddRmsNormBackward<T> a;
    a.rows = rstd.numel(), a.dim = y.size(-1);
    a.y = pointer<const T>(y), a.weight = pointer<const float>(weight), a.rstd = pointer<const float>(rstd);
    a.d_y = pointer<const T>(d_y), a.d_sum_in = pointer<const float>(d_in);
    a.d_sum = pointer<float>(d_sum), a.d_branch = pointer<T>(d_branch), a.d_weight = pointer<float>(d_weight);
    RATTAN_LAUNCH_SCRATCH("add_rms_norm", y, add_rms_norm_backward, add_rms_norm_backward_scratch_bytes(a.rows, a.dim),
                          a);
  });
  return {d_sum, d_branch, d_weight};
}

std::tuple<Tensor, Tensor, Tensor> call_forward(const Tensor& x, const OptionalTensor& branch, const Tensor& weight,
                                                double eps, at::ScalarType dtype) {
  at::AutoDispatchBelowADInplaceOrView below;
  static auto op = handle<decltype(rms_norm_file::forward)>("rattan::add_rms_norm");
  return op.call(x, branch, weight, eps, dtype);
}

std::tuple<Tensor, Tensor, Tensor> call_backward(AutogradContext* ctx, const variable_list& grads, bool with_branch) {
  const auto s = ctx->get_saved_variables();
  static auto op = handle<decltype(rms_norm_file::backward)>("rattan::add_rms_norm_backward");
  return op.call(s[0], s[1], s[2], grads[1], optional(grads[0]), with_branch);
}

class AddRmsNorm : public torch::autograd::Function<AddRmsNorm> {
 public:
  static variable_list forward(AutogradContext* ctx, const Tensor& x, const OptionalTensor& branch,
                               const Tensor& weight, double eps, at::ScalarType dtype) {
    auto [sum, y, rstd] = call_forward(x, branch, weight, eps, dtype);
    ctx->save_for_backward({y, weight, rstd});
    ctx->saved_data["branch"] = branch.has_value();
    ctx->mark_non_differentiable({rstd});
    ctx->set_materialize_grads(false);
    return {sum, y, rstd};
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const bool with_branch = ctx->saved_data["branch"].toBool();
    if (!with_branch) grads[0] = Tensor();  // the sum is no result then
    if (!grads[1].defined()) return {grads[0], grads[0], {}, {}, {}};
    auto [d_sum, d_branch, d_weight] = call_backward(ctx, grads, with_branch);
    return {d_sum, d_branch, d_weight, {}, {}};
  }
};

// The norm of x that passes x on, and sends what comes back along x, rounded, to where a branch was added to it.
class RmsNormAfter : public torch::autograd::Function<RmsNormAfter> {
 public:
  static variable_list forward(AutogradContext* ctx, const Tensor& x, const Tensor& /*added*/, const Tensor& weight,
                               double eps, at::ScalarType dtype) {
    auto [sum, y, rstd] = call_forward(x, {}, weight, eps, dtype);
    ctx->save_for_backward({y, weight, rstd});
    ctx->set_materialize_grads(false);
    return {x.detach(), y};
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    if (!grads[1].defined()) return {grads[0], grads[0], {}, {}, {}};
    auto [d_sum, d_branch, d_weight] = call_backward(ctx, grads, true);
    return {d_sum, d_branch, d_weight, {}, {}};
  }
};

std::tuple<Tensor, Tensor, Tensor> differentiable(const Tensor& x, const OptionalTensor& branch, const Tensor& weight,
                                                  double eps, at::ScalarType dtype) {
  auto out = AddRmsNorm::apply(x, branch, weight, eps, dtype);
  return {out[0], out[1], out[2]};
}

void kernels_of(torch::Library& m) {
  m.impl("add_rms_norm", forward);
  m.impl("add_rms_norm_backward", backward);
}

TORCH_LIBRARY_FRAGMENT(rattan, m) {
  m.def(
      "add_rms_norm(Tensor x, Tensor? branch, Tensor weight, float eps, ScalarType dtype) -> "
      "(Tensor sum, Tensor y, Tensor rstd)");
  m.def(
      "add_rms_norm_backward(Tensor y, Tensor weight, Tensor rstd, Tensor d_y, Tensor? d_sum_in, bool with_branch) "
      "-> (Tensor d_sum, Tensor d_branch, Tensor d_weight)");
}
RATTAN_REGISTER(kernels_of)
TORCH_LIBRARY_IMPL(rattan, Autograd, m) { m.impl("add_rms_norm", differentiable); }

}  // namespace rms_norm_file

std::tuple<at::Tensor, at::Tensor> add_rms_norm(const at::Tensor& x, const at::Tensor& branch, const at::Tensor& weight,
                                                double eps, at::ScalarType dtype) {
  static auto op = handle<decltype(rms_norm_file::forward)>("rattan::add_rms_norm");
  auto [sum, y, rstd] = op.call(x, optional(branch), weight, eps, dtype);
  return {branch.defined() ? sum : x, y};
}

std::tuple<at::Tensor, at::Tensor> rms_norm_after(const at::Tensor& x, const at::Tensor& added,
                                                  const at::Tensor& weight, double eps) {
  auto out = rms_norm_file::RmsNormAfter::apply(x, added, weight, eps, added.scalar_type());
  return {out[0], out[1]};
}

}  // namespace rattan::ops
