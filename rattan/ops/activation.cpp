#include "rattan/kernels/activation.h"

#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "rattan/ops/launch.h"
#include "rattan/ops/ops.h"

namespace rattan::ops {
namespace activation_file {

using at::Tensor;
using kernels::Activation;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr const char* names[] = {"rattan::gelu", "rattan::swiglu", "rattan::sigmoid_mul"};

// Kernels read rows with a stride, so a slice of a projection needs no copy; other layouts do.
Tensor rows_of(const Tensor& t) {
  if (t.dim() == 2 && t.stride(1) == 1) return t;
  return t.contiguous().view({-1, t.size(-1)});
}

Tensor forward(Activation kind, const Tensor& a_in, const Tensor& b_in) {
  require(!b_in.defined() || (a_in.sizes() == b_in.sizes() && a_in.scalar_type() == b_in.scalar_type()),
          "{}: both inputs must have one shape and type", names[static_cast<int>(kind)]);
  const Tensor a = rows_of(a_in), b = b_in.defined() ? rows_of(b_in) : Tensor();
  Tensor out = at::empty(a_in.sizes(), a_in.options());
  with_type("activation", a.scalar_type(), [&]<class T>() {
    kernels::ActivationForward<T> f;
    f.kind = kind, f.rows = a.size(0), f.dim = a.size(1);
    f.a = rows_ref<const T>(a), f.b = rows_ref<const T>(b), f.out = {pointer<T>(out), a.size(1)};
    RATTAN_LAUNCH("activation", a, activation_forward, f);
  });
  return out;
}

std::tuple<Tensor, Tensor> backward(int64_t kind, const Tensor& a_in, const OptionalTensor& b_in,
                                    const Tensor& d_out_in) {
  const Tensor a = rows_of(a_in), b = b_in ? rows_of(*b_in) : Tensor(), d_out = rows_of(d_out_in);
  Tensor d_a = at::empty(a_in.sizes(), a_in.options()), d_b = b_in ? at::empty(a_in.sizes(), a_in.options()) : Tensor();
  with_type("activation", a.scalar_type(), [&]<class T>() {
    kernels::ActivationBackward<T> f;
    f.kind = static_cast<Activation>(kind), f.rows = a.size(0), f.dim = a.size(1);
    f.a = rows_ref<const T>(a), f.b = rows_ref<const T>(b), f.d_out = rows_ref<const T>(d_out);
    f.d_a = {pointer<T>(d_a), a.size(1)}, f.d_b = {pointer<T>(d_b), a.size(1)};
    RATTAN_LAUNCH("activation", a, activation_backward, f);
  });
  return {d_a, d_b};
}

Tensor call(Activation kind, const Tensor& a, const Tensor& b) {
  if (kind == Activation::gelu) {
    static auto gelu_op = handle<Tensor(const Tensor&)>("rattan::gelu");
    return gelu_op.call(a);
  }
  static auto swiglu_op = handle<Tensor(const Tensor&, const Tensor&)>("rattan::swiglu");
  static auto sigmoid_mul_op = handle<Tensor(const Tensor&, const Tensor&)>("rattan::sigmoid_mul");
  return (kind == Activation::swiglu ? swiglu_op : sigmoid_mul_op).call(a, b);
}

class Apply : public torch::autograd::Function<Apply> {
 public:
  static variable_list forward(AutogradContext* ctx, int64_t kind, const Tensor& a, const OptionalTensor& b_in) {
    at::AutoDispatchBelowADInplaceOrView below;
    const Tensor b = value_or_undefined(b_in);
    ctx->save_for_backward({a, b});
    ctx->saved_data["kind"] = kind;
    return {activation_file::call(static_cast<Activation>(kind), a, b)};
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    auto s = ctx->get_saved_variables();
    static auto op = handle<decltype(activation_file::backward)>("rattan::activation_backward");
    auto [d_a, d_b] = op.call(ctx->saved_data["kind"].toInt(), s[0], optional(s[1]), grads[0]);
    return {{}, d_a, d_b};
  }
};

template <Activation kind>
Tensor forward_of(const Tensor& a, const Tensor& b) {
  return forward(kind, a, b);
}
template <Activation kind>
Tensor differentiable_of(const Tensor& a, const Tensor& b) {
  return Apply::apply(static_cast<int64_t>(kind), a, OptionalTensor(b))[0];
}
Tensor gelu_forward(const Tensor& a) { return forward(Activation::gelu, a, {}); }
Tensor gelu_differentiable(const Tensor& a) {
  return Apply::apply(static_cast<int64_t>(Activation::gelu), a, OptionalTensor())[0];
}

void kernels_of(torch::Library& m) {
  m.impl("gelu", gelu_forward);
  m.impl("swiglu", forward_of<Activation::swiglu>);
  m.impl("sigmoid_mul", forward_of<Activation::sigmoid_mul>);
  m.impl("activation_backward", backward);
}

TORCH_LIBRARY_FRAGMENT(rattan, m) {
  m.def("gelu(Tensor x) -> Tensor");
  m.def("swiglu(Tensor gate, Tensor up) -> Tensor");
  m.def("sigmoid_mul(Tensor z, Tensor y) -> Tensor");
  m.def("activation_backward(int kind, Tensor a, Tensor? b, Tensor d_out) -> (Tensor d_a, Tensor d_b)");
}
RATTAN_REGISTER(kernels_of)
TORCH_LIBRARY_IMPL(rattan, Autograd, m) {
  m.impl("gelu", gelu_differentiable);
  m.impl("swiglu", differentiable_of<Activation::swiglu>);
  m.impl("sigmoid_mul", differentiable_of<Activation::sigmoid_mul>);
}

}  // namespace activation_file

at::Tensor gelu(const at::Tensor& x) { return activation_file::call(kernels::Activation::gelu, x, {}); }
at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up) {
  return activation_file::call(kernels::Activation::swiglu, gate, up);
}
at::Tensor sigmoid_mul(const at::Tensor& z, const at::Tensor& y) {
  return activation_file::call(kernels::Activation::sigmoid_mul, z, y);
}

}  // namespace rattan::ops
