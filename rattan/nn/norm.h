// RMSNorm over the residual stream, y = s / sqrt(mean(s^2) + eps) * weight, fused with the addition of the
// branch that is still pending.
#pragma once
#include "rattan/nn/module.h"

namespace rattan::nn {

class RmsNorm : public Module {
 public:
  RmsNorm(int64_t dim, double eps);
  // s = x + branch (branch may be undefined); returns {s, norm(s) in `dtype`}. x: fp32 (or float64).
  std::pair<at::Tensor, at::Tensor> add(const at::Tensor& x, const at::Tensor& branch, at::ScalarType dtype) const;

 private:
  Param& weight_;
  double eps_;
};

}  // namespace rattan::nn
