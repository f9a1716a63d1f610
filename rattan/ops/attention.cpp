#include "rattan/kernels/attention.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros_like.h>
#include <fmt/ranges.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "rattan/ops/kept.h"
#include "rattan/ops/launch.h"
#include "rattan/ops/ops.h"

namespace rattan::ops {
namespace attention_file {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

void check(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& begin, const Tensor& end) {
  require(q.dim() == 3 && k.dim() == 3 && k.sizes() == v.sizes() && q.size(2) == k.size(2),
          "rattan::attention: expected q [N, H, p] and k, v [M, Hkv, p], got {}, {} and {}", fmt::join(q.sizes(), "x"),
          fmt::join(k.sizes(), "x"), fmt::join(v.sizes(), "x"));
  require(k.size(1) > 0 && q.size(1) % k.size(1) == 0, "rattan::attention: {} heads do not divide into {} kv heads",
          q.size(1), k.size(1));
  require(begin.numel() == q.size(0) && end.numel() == q.size(0) && begin.scalar_type() == at::kInt &&
              end.scalar_type() == at::kInt && begin.is_contiguous() && end.is_contiguous(),
          "rattan::attention: begin and end must be int32 [{}]", q.size(0));
  require(q.scalar_type() == k.scalar_type() && q.scalar_type() == v.scalar_type(),
          "rattan::attention: q, k and v must have one type");
}

// Intervals made by hand must not make a kernel read elsewhere. Device tables are the caller's word.
void check_intervals(const Tensor& begin, const Tensor& end, int64_t keys) {
  if (!begin.is_cpu()) return;
  const auto* low = pointer<const int32_t>(begin);
  const auto* high = pointer<const int32_t>(end);
  for (int64_t i = 0; i < begin.numel(); ++i)
    require(low[i] >= 0 && high[i] <= keys, "rattan::attention: query {} sees keys [{}, {}) of {}", i, low[i], high[i],
            keys);
}

template <class Args>
void fill_shape(Args& a, const Tensor& q, const Tensor& k, const Tensor& begin, const Tensor& end, double scale) {
  a.queries = q.size(0), a.keys = k.size(0), a.heads = q.size(1), a.kv_heads = k.size(1), a.dim = q.size(2);
  a.scale = static_cast<float>(scale);
  a.begin = pointer<int32_t>(begin), a.end = pointer<int32_t>(end);
}

std::tuple<Tensor, Tensor> forward(const Tensor& q_in, const Tensor& k_in, const Tensor& v_in, const Tensor& begin,
                                   const Tensor& end, double scale) {
  check(q_in, k_in, v_in, begin, end);
  check_intervals(begin, end, k_in.size(0));
  const Tensor q = dense_last(q_in), k = dense_last(k_in), v = dense_last(v_in);
  Tensor o = at::empty(q.sizes(), q.options());
  Tensor lse = at::empty({q.size(0), q.size(1)}, q.options().dtype(at::kFloat));
  with_type("attention", q.scalar_type(), [&]<class T>() {
    kernels::AttentionForward<T> a;
    fill_shape(a, q, k, begin, end, scale);
    a.q = heads_ref<const T>(q), a.k = heads_ref<const T>(k), a.v = heads_ref<const T>(v);
    a.o = heads_ref<T>(o), a.lse = pointer<float>(lse);
    RATTAN_LAUNCH("attention", q, attention_forward, a);
  });
  return {o, lse};
}

std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& d_o_in, const OptionalTensor& d_lse_in, const Tensor& q_in,
                                            const Tensor& k_in, const Tensor& v_in, const Tensor& o, const Tensor& lse,
                                            const Tensor& begin, const Tensor& end, double scale) {
  const Tensor q = dense_last(q_in), k = dense_last(k_in), v = dense_last(v_in), d_o = dense_last(d_o_in);
  const Tensor d_lse = d_lse_in ? d_lse_in->contiguous() : Tensor();
  Tensor dq = at::empty(q.sizes(), q.options()), dk = at::empty(k.sizes(), k.options()),
         dv = at::empty(v.sizes(), v.options());
  with_type("attention", q.scalar_type(), [&]<class T>() {
    kernels::AttentionBackward<T> a;
    fill_shape(a, q, k, begin, end, scale);
    a.q = heads_ref<const T>(q), a.k = heads_ref<const T>(k), a.v = heads_ref<const T>(v);
    a.o = heads_ref<const T>(o), a.d_o = heads_ref<const T>(d_o);
    a.lse = pointer<const float>(lse), a.d_lse = pointer<const float>(d_lse);
    a.dq = heads_ref<T>(dq), a.dk = heads_ref<T>(dk), a.dv = heads_ref<T>(dv);
    RATTAN_LAUNCH_SCRATCH("attention", q, attention_backward, attention_backward_scratch_bytes(a), a);
  });
  return {dq, dk, dv};
}

class Attention : public torch::autograd::Function<Attention> {
 public:
  static variable_list forward(AutogradContext* ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                               const Tensor& begin, const Tensor& end, double scale) {
    at::AutoDispatchBelowADInplaceOrView below;
    const auto results = Kept::results([&]() -> std::vector<Tensor> {
      auto [made, sums] = ops::attention(q, k, v, begin, end, scale);
      return {made, sums};
    });
    const Tensor &o = results[0], &lse = results[1];
    ctx->save_for_backward({q, k, v, o, lse, begin, end});
    ctx->saved_data["scale"] = scale;
    ctx->set_materialize_grads(false);
    return {o, lse};
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    auto s = ctx->get_saved_variables();
    Tensor d_o = grads[0].defined() ? grads[0] : at::zeros_like(s[3]);
    static auto op = handle<decltype(attention_file::backward)>("rattan::attention_backward");
    auto [dq, dk, dv] =
        op.call(d_o, optional(grads[1]), s[0], s[1], s[2], s[3], s[4], s[5], s[6], ctx->saved_data["scale"].toDouble());
    return {dq, dk, dv, {}, {}, {}};
  }
};

std::tuple<Tensor, Tensor> differentiable(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& begin,
                                          const Tensor& end, double scale) {
  auto out = Attention::apply(q, k, v, begin, end, scale);
  return {out[0], out[1]};
}

void kernels_of(torch::Library& m) {
  m.impl("attention", forward);
  m.impl("attention_backward", backward);
}

TORCH_LIBRARY_FRAGMENT(rattan, m) {
  m.def("attention(Tensor q, Tensor k, Tensor v, Tensor begin, Tensor end, float scale) -> (Tensor o, Tensor lse)");
  m.def(
      "attention_backward(Tensor d_o, Tensor? d_lse, Tensor q, Tensor k, Tensor v, Tensor o, Tensor lse, "
      "Tensor begin, Tensor end, float scale) -> (Tensor dq, Tensor dk, Tensor dv)");
}
RATTAN_REGISTER(kernels_of)
TORCH_LIBRARY_IMPL(rattan, Autograd, m) { m.impl("attention", differentiable); }

}  // namespace attention_file

std::tuple<at::Tensor, at::Tensor> attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                             const at::Tensor& begin, const at::Tensor& end, double scale) {
  static auto op = handle<decltype(attention_file::forward)>("rattan::attention");
  return op.call(q, k, v, begin, end, scale);
}

}  // namespace rattan::ops
