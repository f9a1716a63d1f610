#include "rattan/nn/norm.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/rsqrt.h>

#include "rattan/ops/ops.h"

namespace rattan::nn {

RmsNorm::RmsNorm(int64_t dim, double eps) : weight_(param("weight", {dim}, Init::constant(1))), eps_(eps) {}

std::pair<at::Tensor, at::Tensor> RmsNorm::add(const at::Tensor& x, const at::Tensor& branch,
                                               at::ScalarType dtype) const {
  if (dtype == at::kDouble) {
    at::Tensor s = branch.defined() ? x + branch : x;
    return {s, s * at::rsqrt(s.pow(2).mean(-1, true) + eps_) * weight_(at::kDouble)};
  }
  auto [s, y] = ops::add_rms_norm(x, branch, weight_(at::kFloat), eps_, dtype);
  return {s, y};
}

}  // namespace rattan::nn
