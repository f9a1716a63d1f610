#include "rattan/kernels/ref/rms_norm_ref.h"

#include <cmath>

#include "rattan/kernels/rms_norm.h"

namespace rattan::kernels::ref {
namespace rms_norm_ref_file {

double rstd_of(const double* s, int64_t dim, double eps) {
  double squares = 0;
  for (int64_t i = 0; i < dim; ++i) squares += s[i] * s[i];
  return 1 / std::sqrt(squares / static_cast<double>(dim) + eps);
}

double usable(double weight) {
  return std::abs(weight) < least_norm_weight ? std::copysign(least_norm_weight, weight) : weight;
}

}  // namespace rms_norm_ref_file

RmsNormOutput add_rms_norm_forward(const std::vector<double>& x, const std::vector<double>& branch,
                                   const std::vector<double>& weight, double eps) {
  int64_t dim = static_cast<int64_t>(weight.size());
  int64_t rows = dim == 0 ? 0 : static_cast<int64_t>(x.size()) / dim;
  RmsNormOutput out{x, std::vector<double>(x.size()), {}};
  for (std::size_t i = 0; i < branch.size(); ++i) out.sum[i] += branch[i];
  for (int64_t row = 0; row < rows; ++row) {
    double rstd = rms_norm_ref_file::rstd_of(out.sum.data() + row * dim, dim, eps);
    out.rstd.push_back(rstd);
    for (int64_t i = 0; i < dim; ++i)
      out.y[row * dim + i] = out.sum[row * dim + i] * rstd * rms_norm_ref_file::usable(weight[i]);
  }
  return out;
}

RmsNormGradients add_rms_norm_backward(const std::vector<double>& y, const std::vector<double>& weight,
                                       const std::vector<double>& rstd, const std::vector<double>& d_y,
                                       const std::vector<double>& d_sum_in) {
  int64_t dim = static_cast<int64_t>(weight.size());
  int64_t rows = static_cast<int64_t>(rstd.size());
  RmsNormGradients out{std::vector<double>(y.size()), std::vector<double>(dim)};
  for (int64_t row = 0; row < rows; ++row) {
    double mean = 0;
    for (int64_t i = 0; i < dim; ++i) mean += d_y[row * dim + i] * y[row * dim + i] / static_cast<double>(dim);
    for (int64_t i = 0; i < dim; ++i) {
      double w = rms_norm_ref_file::usable(weight[i]), normal = y[row * dim + i] / w, dy = d_y[row * dim + i];
      out.d_sum[row * dim + i] =
          (d_sum_in.empty() ? 0 : d_sum_in[row * dim + i]) + rstd[row] * (dy * w - normal * mean);
      out.d_weight[i] += dy * normal;
    }
  }
  return out;
}

}  // namespace rattan::kernels::ref
