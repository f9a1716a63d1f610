#include "rattan/nn/linear.h"

#include "rattan/ops/ops.h"

namespace rattan::nn {

Linear::Linear(int64_t in, int64_t out, double init_std)
    : weight_(param("weight", {out, in}, Init::normal(init_std))) {}

at::Tensor Linear::operator()(const at::Tensor& x) const { return ops::linear(x, weight_(x.scalar_type())); }

}  // namespace rattan::nn
