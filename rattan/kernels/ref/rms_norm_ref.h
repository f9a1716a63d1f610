// Residual add and RMSNorm (kernels/rms_norm.h) in float64.
#pragma once
#include <cstdint>
#include <vector>

namespace rattan::kernels::ref {

struct RmsNormOutput {
  std::vector<double> sum, y;  // [rows, dim]
  std::vector<double> rstd;    // [rows]
};

struct RmsNormGradients {
  std::vector<double> d_sum;     // [rows, dim]
  std::vector<double> d_weight;  // [dim]
};

// x: [rows, dim]; branch: the same or empty; weight: [dim].
RmsNormOutput add_rms_norm_forward(const std::vector<double>& x, const std::vector<double>& branch,
                                   const std::vector<double>& weight, double eps);
// y, d_y: [rows, dim]; rstd: [rows]; d_sum_in: as y or empty.
RmsNormGradients add_rms_norm_backward(const std::vector<double>& y, const std::vector<double>& weight,
                                       const std::vector<double>& rstd, const std::vector<double>& d_y,
                                       const std::vector<double>& d_sum_in);

}  // namespace rattan::kernels::ref
