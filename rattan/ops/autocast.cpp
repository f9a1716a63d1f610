// The operators under torch.autocast: streams of activations and the weights they meet run in the region's type,
// gate biases, norm weights, row weights and running states stay fp32 (statistics always are). The program never
// enters such a region; these rules are for Python.
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/library.h>

#include "rattan/ops/launch.h"
#include "rattan/ops/ops.h"

// Of ATen/autocast_mode.h, which would bring the whole of ATen/ATen.h with it.
namespace at::autocast {
TORCH_API at::ScalarType get_autocast_dtype(at::DeviceType device_type);
}

namespace rattan::ops {
namespace autocast_file {

using at::Tensor;

// The region's type for one call, and the region left while it lives.
class Region {
 public:
  Region(const char* op, const Tensor& like)
      : dtype_(at::autocast::get_autocast_dtype(like.device().type())), left_(c10::autocast_dispatch_keyset) {
    require(dtype_ == at::kBFloat16 || dtype_ == at::kFloat,
            "rattan::{} runs in bfloat16 under autocast, not in {}; use torch.autocast(..., dtype=torch.bfloat16)", op,
            c10::toString(dtype_));
  }
  at::ScalarType dtype() const { return dtype_; }
  Tensor operator()(const Tensor& t) const { return cast(t, dtype_); }
  OptionalTensor operator()(const OptionalTensor& t) const { return t ? OptionalTensor(cast(*t, dtype_)) : t; }

  static Tensor fp32(const Tensor& t) { return cast(t, at::kFloat); }
  static OptionalTensor fp32(const OptionalTensor& t) { return t ? OptionalTensor(fp32(*t)) : t; }

 private:
  // float64 is the caller's explicit wish, and the kernels say themselves that they do not have it.
  static Tensor cast(const Tensor& t, at::ScalarType dtype) {
    const bool takes_part = t.is_floating_point() && t.scalar_type() != at::kDouble;
    return takes_part ? t.to(dtype) : t;
  }

  at::ScalarType dtype_;
  c10::impl::ExcludeDispatchKeyGuard left_;
};

std::tuple<Tensor, Tensor> attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& begin,
                                     const Tensor& end, double scale) {
  const Region in("attention", q);
  return ops::attention(in(q), in(k), in(v), begin, end, scale);
}

using RatOutputs = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

RatOutputs rat(const Tensor& proj, const Tensor& gate_bias, const Tensor& table, const OptionalTensor& cos,
               const OptionalTensor& sin, int64_t heads, int64_t groups, int64_t chunk, int64_t rows, int64_t ends,
               const OptionalTensor& ends_k, const OptionalTensor& ends_v, const OptionalTensor& running_k,
               const OptionalTensor& running_v) {
  const Region in("rat", proj);
  static auto op = handle<decltype(rat)>("rattan::rat");
  return op.call(in(proj), in.fp32(gate_bias), table, cos, sin, heads, groups, chunk, rows, ends, in(ends_k),
                 in(ends_v), in.fp32(running_k), in.fp32(running_v));
}

// The state is written in place, so it must have the region's type already.
Tensor rat_extend(const Tensor& proj, const Tensor& gate_bias, const Tensor& table, const OptionalTensor& cos,
                  const OptionalTensor& sin, int64_t heads, int64_t groups, int64_t chunk, Tensor ends_k, Tensor ends_v,
                  Tensor running_k, Tensor running_v, bool step) {
  const Region in("rat_extend_", proj);
  static auto op = handle<decltype(rat_extend)>("rattan::rat_extend_");
  return op.call(in(proj), in.fp32(gate_bias), table, cos, sin, heads, groups, chunk, ends_k, ends_v, running_k,
                 running_v, step);
}

std::tuple<Tensor, Tensor> gated_scan(const Tensor& x, const Tensor& gate, const Tensor& gate_bias,
                                      const Tensor& table, const OptionalTensor& initial, int64_t rows) {
  const Region in("gated_scan", x);
  static auto op = handle<decltype(gated_scan)>("rattan::gated_scan");
  return op.call(in(x), in(gate), in.fp32(gate_bias), table, in.fp32(initial), rows);
}

// The region decides the type of y, whatever `dtype` says; the stream stays fp32.
std::tuple<Tensor, Tensor, Tensor> add_rms_norm(const Tensor& x, const OptionalTensor& branch, const Tensor& weight,
                                                double eps, at::ScalarType) {
  const Region in("add_rms_norm", x);
  static auto op = handle<decltype(add_rms_norm)>("rattan::add_rms_norm");
  return op.call(in.fp32(x), in(branch), in.fp32(weight), eps, in.dtype());
}

Tensor rope(const Tensor& x, const Tensor& position, const Tensor& cos, const Tensor& sin, bool inverse) {
  const Region in("rope", x);
  static auto op = handle<decltype(rope)>("rattan::rope");
  return op.call(in(x), position, cos, sin, inverse);
}

Tensor gelu(const Tensor& x) {
  const Region in("gelu", x);
  return ops::gelu(in(x));
}
Tensor swiglu(const Tensor& gate, const Tensor& up) {
  const Region in("swiglu", gate);
  return ops::swiglu(in(gate), in(up));
}
Tensor sigmoid_mul(const Tensor& z, const Tensor& y) {
  const Region in("sigmoid_mul", z);
  return ops::sigmoid_mul(in(z), in(y));
}

std::tuple<Tensor, Tensor, Tensor> linear_cross_entropy(const Tensor& h, const Tensor& w, const Tensor& target,
                                                        const OptionalTensor& weight, bool gradient) {
  const Region in("linear_cross_entropy", h);
  static auto op = handle<decltype(linear_cross_entropy)>("rattan::linear_cross_entropy");
  return op.call(in(h), in(w), target, in.fp32(weight), gradient);
}

void rules(torch::Library& m) {
  m.impl("attention", attention);
  m.impl("rat", rat);
  m.impl("rat_extend_", rat_extend);
  m.impl("gated_scan", gated_scan);
  m.impl("add_rms_norm", add_rms_norm);
  m.impl("rope", rope);
  m.impl("gelu", gelu);
  m.impl("swiglu", swiglu);
  m.impl("sigmoid_mul", sigmoid_mul);
  m.impl("linear_cross_entropy", linear_cross_entropy);
}

TORCH_LIBRARY_IMPL(rattan, AutocastCPU, m) { rules(m); }
TORCH_LIBRARY_IMPL(rattan, AutocastCUDA, m) { rules(m); }

}  // namespace autocast_file
}  // namespace rattan::ops
