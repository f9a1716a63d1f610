#include "rattan/kernels/ref/rms_norm_ref.h"

#include <cmath>

namespace rattan::kernels::ref {
namespace rms_norm_ref_file {

double rstd_of(const double* s, int64_t dim, double eps) {
  double squares = 0;
  for (int64_t i = 0; i < dim; ++i) squares += s[i] * s[i];
  return 1 / std::sqrt(squares / static_cast<double>(dim) + eps);
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
    for (int64_t i = 0; i < dim; ++i) out.y[row * dim + i] = out.sum[row * dim + i] * rstd * weight[i];
  }
  return out;
}

RmsNormGradients add_rms_norm_backward(const std::vector<double>& sum, const std::vector<double>& weight, double eps,
                                       const std::vector<double>& d_y, const std::vector<double>& d_sum_in) {
  int64_t dim = static_cast<int64_t>(weight.size());
  int64_t rows = dim == 0 ? 0 : static_cast<int64_t>(sum.size()) / dim;
  RmsNormGradients out{std::vector<double>(sum.size()), std::vector<double>(dim)};
  for (int64_t row = 0; row < rows; ++row) {
    const double *s = sum.data() + row * dim, *dy = d_y.data() + row * dim;
    double r = rms_norm_ref_file::rstd_of(s, dim, eps);
    double mean = 0;
    for (int64_t i = 0; i < dim; ++i) mean += dy[i] * weight[i] * s[i] / static_cast<double>(dim);
    for (int64_t i = 0; i < dim; ++i) {
      double through = d_sum_in.empty() ? 0 : d_sum_in[row * dim + i];
      out.d_sum[row * dim + i] = through + r * dy[i] * weight[i] - s[i] * r * r * r * mean;
      out.d_weight[i] += dy[i] * s[i] * r;
    }
  }
  return out;
}

}  // namespace rattan::kernels::ref
