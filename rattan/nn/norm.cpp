#include "rattan/nn/norm.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/rsqrt.h>

#include "rattan/ops/ops.h"

namespace rattan::nn {

RmsNorm::RmsNorm(int64_t dim, double eps) : weight_(param("weight", {dim}, Init::constant(1))), eps_(eps) {}

at::Tensor RmsNorm::join(Stream& stream, at::ScalarType dtype) const {
  if (dtype == at::kDouble) {
    const at::Tensor& x = stream.resolve();
    return x * at::rsqrt(x.pow(2).mean(-1, true) + eps_) * weight_(at::kDouble);
  }
  if (stream.added.defined()) {
    auto [x, y] = ops::rms_norm_after(stream.x, stream.added, weight_(at::kFloat), eps_);
    stream = {x, {}, {}, stream.owned};
    return y;
  }
  auto [x, y] = ops::add_rms_norm(stream.x, stream.pending, weight_(at::kFloat), eps_, dtype);
  stream = {x, {}, {}, stream.owned || stream.pending.defined()};
  return y;
}

}  // namespace rattan::nn
