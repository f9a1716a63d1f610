// RMSNorm over the residual stream, y = s / sqrt(mean(s^2) + eps) * weight, fused with the addition of the
// branch that is still pending.
#pragma once
#include "rattan/nn/module.h"
#include "rattan/nn/stream.h"

namespace rattan::nn {

class RmsNorm : public Module {
 public:
  RmsNorm(int64_t dim, double eps);
  // Adds what is pending to the stream and returns its norm in `dtype`.
  at::Tensor join(Stream& stream, at::ScalarType dtype) const;

 private:
  Param& weight_;
  double eps_;
};

}  // namespace rattan::nn
