#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "rattan/base/parallel.h"
#include "rattan/kernels/cross_entropy.h"
#include "rattan/ops/launch.h"
#include "rattan/ops/ops.h"

namespace rattan::ops {
namespace linear_cross_entropy_file {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Logits held at a time: small enough for a CPU's last-level cache, large enough to fill a GPU.
constexpr int64_t cpu_logits = 1 << 21, cuda_logits = 1 << 27;

int64_t block_rows(const Tensor& h, int64_t vocabulary) {
  return std::max<int64_t>(64, (h.is_cuda() ? cuda_logits : cpu_logits) / std::max<int64_t>(1, vocabulary));
}

// Gradients of the sum come with the value, since the logits exist only here.
std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& h, const Tensor& w, const Tensor& target_in,
                                           const OptionalTensor& weight_in, bool gradient) {
  require(h.dim() == 2 && w.dim() == 2 && h.size(1) == w.size(1) && h.scalar_type() == w.scalar_type(),
          "rattan::linear_cross_entropy: h must be [N, D] and w [V, D], of one type");
  require(target_in.numel() == h.size(0) && target_in.scalar_type() == at::kLong,
          "rattan::linear_cross_entropy: target must be int64 [{}]", h.size(0));
  require(!weight_in || (weight_in->numel() == h.size(0) && weight_in->scalar_type() == at::kFloat),
          "rattan::linear_cross_entropy: weight must be float32 [{}]", h.size(0));
  if (target_in.is_cpu() && target_in.numel() > 0) {
    const auto largest = target_in.max().item<int64_t>();
    require(largest < w.size(0), "target id {} is not in the vocabulary of {} tokens", largest, w.size(0));
  }
  const Tensor target = target_in.contiguous(), weight = weight_in ? weight_in->contiguous() : Tensor();
  const int64_t rows = h.size(0), vocabulary = w.size(0), step = block_rows(h, vocabulary);
  const auto fp32 = h.options().dtype(at::kFloat);
  Tensor loss = at::empty({rows}, fp32);
  Tensor d_h = gradient ? at::empty_like(h, at::MemoryFormat::Contiguous) : at::empty({0}, h.options());
  Tensor d_w = gradient ? at::zeros(w.sizes(), fp32) : at::empty({0}, fp32);
  const Tensor w_t = w.t();
  for (int64_t from = 0; from < rows; from += step) {
    const int64_t n = std::min(step, rows - from);
    const Tensor block = h.narrow(0, from, n);
    Tensor logits = product(block, w_t);
    with_type("linear_cross_entropy", h.scalar_type(), [&]<class T>() {
      kernels::CrossEntropy<T> a;
      a.rows = n, a.vocabulary = vocabulary, a.logits = rows_ref<T>(logits);
      a.target = pointer<const int64_t>(target) + from;
      a.weight = weight.defined() ? pointer<const float>(weight) + from : nullptr;
      a.gradient = gradient, a.loss = pointer<float>(loss) + from;
      RATTAN_LAUNCH("linear_cross_entropy", h, cross_entropy, a);
    });
    if (!gradient) continue;
    product_into(d_h.narrow(0, from, n), logits, w);
    d_w.add_(product(logits.t(), block));
  }
  return {loss.sum(), d_h, d_w};
}

class LinearCrossEntropy : public torch::autograd::Function<LinearCrossEntropy> {
 public:
  static variable_list forward(AutogradContext* ctx, const Tensor& h, const Tensor& w, const Tensor& target,
                               const OptionalTensor& weight, bool gradient) {
    at::AutoDispatchBelowADInplaceOrView below;
    static auto op = handle<decltype(linear_cross_entropy_file::forward)>("rattan::linear_cross_entropy");
    auto [loss, d_h, d_w] = op.call(h, w, target, weight, gradient);
    ctx->save_for_backward({d_h, d_w});
    ctx->mark_non_differentiable({d_h, d_w});
    return {loss, d_h, d_w};
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    auto s = ctx->get_saved_variables();
    const Tensor scale = grads[0].to(s[0].scalar_type());
    return {s[0] * scale, s[1] * grads[0], {}, {}, {}};
  }
};

std::tuple<Tensor, Tensor, Tensor> differentiable(const Tensor& h, const Tensor& w, const Tensor& target,
                                                  const OptionalTensor& weight, bool gradient) {
  auto out = LinearCrossEntropy::apply(h, w, target, weight, gradient);
  return {out[0], out[1], out[2]};
}

void kernels_of(torch::Library& m) { m.impl("linear_cross_entropy", forward); }

TORCH_LIBRARY_FRAGMENT(rattan, m) {
  m.def(
      "linear_cross_entropy(Tensor h, Tensor w, Tensor target, Tensor? weight, bool gradient) -> "
      "(Tensor loss, Tensor d_h, Tensor d_w)");
}
RATTAN_REGISTER(kernels_of)
TORCH_LIBRARY_IMPL(rattan, Autograd, m) { m.impl("linear_cross_entropy", differentiable); }

}  // namespace linear_cross_entropy_file

at::Tensor linear_cross_entropy(const at::Tensor& h, const at::Tensor& w, const at::Tensor& target,
                                const at::Tensor& weight) {
  static auto op = handle<decltype(linear_cross_entropy_file::forward)>("rattan::linear_cross_entropy");
  const bool gradient = at::GradMode::is_enabled() && (h.requires_grad() || w.requires_grad());
  return std::get<0>(op.call(h, w, target, optional(weight), gradient));
}

}  // namespace rattan::ops
