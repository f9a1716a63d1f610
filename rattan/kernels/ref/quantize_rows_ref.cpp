#include "rattan/kernels/ref/quantize_rows_ref.h"

#include <algorithm>
#include <cmath>

namespace rattan::kernels::ref {

double nearest_e4m3(double x) {
  if (std::isnan(x)) return x;
  const double size = std::min(std::abs(x), 448.0);
  const int exponent = size > 0 ? std::max(std::ilogb(size), -6) : -6;
  const double spacing = std::ldexp(1.0, exponent - 3);
  return std::copysign(std::nearbyint(size / spacing) * spacing, x);
}

QuantizedRows quantize_rows(const std::vector<double>& x, int64_t rows, int64_t dim) {
  QuantizedRows out;
  for (int64_t r = 0; r < rows; ++r) {
    double most = std::ldexp(1.0, -100);
    for (int64_t i = 0; i < dim; ++i) {
      const double size = std::abs(x[r * dim + i]);
      if (!std::isnan(size)) most = std::max(most, size);
    }
    out.scale.push_back(most / 448);
    for (int64_t i = 0; i < dim; ++i) out.y.push_back(nearest_e4m3(x[r * dim + i] * (448 / most)));
  }
  return out;
}

}  // namespace rattan::kernels::ref
