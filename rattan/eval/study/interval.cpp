#include "rattan/eval/study/interval.h"

#include <cmath>
#include <numbers>

#include "rattan/base/error.h"

namespace rattan::study {
namespace interval_file {

// The share of the distribution within +- t, with t = tan(theta) sqrt(df).
double share_within(double theta, int64_t df) {
  const double c = std::cos(theta), s = std::sin(theta);
  if (df == 1) return 2 * theta / std::numbers::pi;
  const bool odd = df % 2 == 1;
  double term = odd ? c : 1, sum = term;
  for (int64_t k = odd ? 3 : 2; k <= df - 2; k += 2) {
    term *= c * c * static_cast<double>(k - 1) / static_cast<double>(k);
    sum += term;
  }
  return odd ? 2 / std::numbers::pi * (theta + s * sum) : s * sum;
}

}  // namespace interval_file

double student_t(double confidence, int64_t df) {
  using namespace interval_file;
  require(confidence > 0 && confidence < 1, "a confidence must lie between 0 and 1, got {}", confidence);
  require(df >= 1, "Student's t has at least 1 degree of freedom, got {}", df);
  double low = 0, high = std::numbers::pi / 2;
  for (int i = 0; i < 200 && low < high; ++i) {
    const double middle = low + (high - low) / 2;
    if (middle == low || middle == high) break;
    (share_within(middle, df) < confidence ? low : high) = middle;
  }
  return std::tan(low) * std::sqrt(static_cast<double>(df));
}

Interval interval(const std::vector<double>& values, double confidence) {
  Interval out;
  out.n = static_cast<int64_t>(values.size());
  if (values.empty()) return out;
  const auto n = static_cast<double>(values.size());
  for (double v : values) out.mean += v / n;
  out.low = out.high = out.mean;
  if (values.size() == 1) return out;
  double squares = 0;
  for (double v : values) squares += (v - out.mean) * (v - out.mean);
  const double half = student_t(confidence, out.n - 1) * std::sqrt(squares / (n - 1) / n);
  out.low -= half, out.high += half;
  return out;
}

}  // namespace rattan::study
