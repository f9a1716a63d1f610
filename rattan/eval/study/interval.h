// Confidence intervals over seeds.
#pragma once
#include <cstdint>
#include <vector>

namespace rattan::study {

// The quantile of Student's t distribution with df >= 1 degrees of freedom that a share `confidence` of the
// distribution lies within, on both sides: 12.706 for 0.95 and df = 1.
// The distribution function is the finite series of Abramowitz & Stegun, 26.7.3 and 26.7.4.
double student_t(double confidence, int64_t df);

// Mean and interval mean +- t s / sqrt(n), with s^2 the unbiased variance and n - 1 degrees of freedom. It supposes
// that values are drawn independently and about normally. One value has no interval: low = high = mean.
struct Interval {
  double mean = 0, low = 0, high = 0;
  int64_t n = 0;
  double half() const { return (high - low) / 2; }
};
Interval interval(const std::vector<double>& values, double confidence);  // n = 0 for no values

}  // namespace rattan::study
