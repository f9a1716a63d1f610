#include "rattan/nn/linear.h"

#include "rattan/ops/ops.h"

namespace rattan::nn {

Linear::Linear(int64_t in, int64_t out, double init_std)
    : weight_(param("weight", {out, in}, Init::normal(init_std))) {}

at::Tensor Linear::operator()(const at::Tensor& x) const { return ops::linear(x, weight_(x.scalar_type())); }

at::Tensor Linear::join(const at::Tensor& x, const at::Tensor& like, Call& call) const {
  const at::Tensor weight = weight_(x.scalar_type());
  if (call.stream && ops::add_linear_(*call.stream, x, weight)) return {};
  return ops::linear(x, weight).view_as(like);
}

}  // namespace rattan::nn
