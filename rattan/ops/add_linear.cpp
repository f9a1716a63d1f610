#include <ATen/ops/addmm.h>
#include <ATen/ops/empty_strided.h>
#include <torch/csrc/autograd/custom_function.h>

#include "rattan/base/error.h"
#include "rattan/ops/few_rows.h"
#include "rattan/ops/launch.h"
#include "rattan/ops/ops.h"
#include "rattan/ops/product_choice.h"

namespace rattan::ops {
namespace add_linear_file {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

void add_product(const Tensor& sum, const Tensor& x, const Tensor& weight) {
  Tensor out = sum.view({-1, weight.size(0)});
  at::addmm_out(out, out, x.reshape({out.size(0), x.size(-1)}), weight.t(), at::kFloat);
}

// A tensor of sum's shape and x's type whose elements are all one: it is never read, only its gradient is of use.
Tensor stand_in(const Tensor& sum, const Tensor& x) {
  return at::empty_strided(sum.sizes(), std::vector<int64_t>(static_cast<std::size_t>(sum.dim()), 0),
                           sum.options().dtype(x.scalar_type()));
}

class AddLinear : public torch::autograd::Function<AddLinear> {
 public:
  static variable_list forward(AutogradContext* ctx, const Tensor& sum, const Tensor& x, const Tensor& value,
                               const OptionalTensor& master) {
    ctx->save_for_backward({x, value, master.value_or(Tensor())});
    ctx->set_materialize_grads(false);
    const Tensor out = sum.detach();
    sum.unsafeGetTensorImpl()->bump_version();  // who kept it for a backward pass is told
    add_product(out, x, value);
    return {out, stand_in(out, x)};
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto s = ctx->get_saved_variables();
    const Tensor &x = s[0], &value = s[1], &master = s[2], &d_sum = grads[0];
    Tensor d_branch = grads[1].defined() ? grads[1] : d_sum;
    if (!d_branch.defined()) return {{}, {}, {}, {}};
    d_branch = d_branch.to(x.scalar_type()).reshape({-1, value.size(0)});
    const Tensor d_x = product(d_branch, value).view_as(x), rows = x.reshape({-1, x.size(-1)});
    if (master.defined()) return {d_sum, d_x, {}, weight_gradient(master, d_branch, rows)};
    return {d_sum, d_x, product(d_branch.t(), rows), {}};
  }
};

}  // namespace add_linear_file

std::optional<AddedBranch> add_linear_(const at::Tensor& sum, const at::Tensor& x, const Weight& weight) {
  using namespace add_linear_file;
  const at::Tensor& value = weight.value;
  const bool types =
      sum.scalar_type() == at::kFloat && x.scalar_type() == at::kBFloat16 && value.scalar_type() == at::kBFloat16;
  if (!sum.is_cuda() || !types || !sum.is_contiguous() || x.numel() == 0) return std::nullopt;
  const int64_t rows = x.numel() / x.size(-1);
  if (sum.numel() != rows * value.size(0)) return std::nullopt;
  if (add_few_rows_linear(sum, x, value)) return AddedBranch{sum, {}};
  if (rows < add_linear_least_rows) return std::nullopt;
  auto out = AddLinear::apply(sum, x, value, optional(weight.master));
  return AddedBranch{out[0], out[1]};
}

}  // namespace rattan::ops
