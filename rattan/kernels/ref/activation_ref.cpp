#include "rattan/kernels/ref/activation_ref.h"

#include <cmath>
#include <numbers>

namespace rattan::kernels::ref {
namespace activation_ref_file {

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double normal_cdf(double x) { return 0.5 * std::erfc(-x / std::numbers::sqrt2); }
double normal_pdf(double x) { return std::exp(-0.5 * x * x) / std::sqrt(2 * std::numbers::pi); }

}  // namespace activation_ref_file

double activation(Activation kind, double a, double b) {
  using namespace activation_ref_file;
  if (kind == Activation::gelu) return a * normal_cdf(a);
  return kind == Activation::swiglu ? a * sigmoid(a) * b : sigmoid(a) * b;
}

ActivationGradient activation_gradient(Activation kind, double a, double b, double d_out) {
  using namespace activation_ref_file;
  if (kind == Activation::gelu) return {d_out * (normal_cdf(a) + a * normal_pdf(a)), 0};
  double s = sigmoid(a), slope = s * (1 - s);
  if (kind == Activation::swiglu) return {d_out * b * (s + a * slope), d_out * a * s};
  return {d_out * b * slope, d_out * s};
}

}  // namespace rattan::kernels::ref
