// RMSNorm over the residual stream, y = s / sqrt(mean(s^2) + eps) * weight, fused with the addition of the
// branch that is still pending.
#pragma once
#include "rattan/nn/module.h"
#include "rattan/nn/stream.h"
#include "rattan/ops/ops.h"

namespace rattan::nn {

class RmsNorm : public Module {
 public:
  RmsNorm(int64_t dim, double eps);
  // Adds what is pending to the stream and returns its norm in `dtype`.
  at::Tensor join(Stream& stream, at::ScalarType dtype) const;
  // The norm alone, for whoever makes it later.
  ops::NormToCome to_come(at::ScalarType dtype) const { return {weight_(at::kFloat), eps_, dtype}; }

 private:
  Param& weight_;
  double eps_;
};

}  // namespace rattan::nn
