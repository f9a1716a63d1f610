#include "rattan/kernels/ref/rope_ref.h"

#include <cmath>

namespace rattan::kernels::ref {

std::vector<double> rope(const std::vector<double>& x, const std::vector<int32_t>& position, int64_t heads, int64_t dim,
                         double base, bool inverse) {
  std::vector<double> out(x.size());
  for (std::size_t row = 0; row < position.size(); ++row) {
    for (int64_t head = 0; head < heads; ++head) {
      const double* in = x.data() + (row * heads + head) * dim;
      double* to = out.data() + (row * heads + head) * dim;
      for (int64_t i = 0; i < dim / 2; ++i) {
        double angle = position[row] * std::pow(base, -2.0 * i / dim) * (inverse ? -1 : 1);
        double low = in[i], high = in[i + dim / 2];
        to[i] = low * std::cos(angle) - high * std::sin(angle);
        to[i + dim / 2] = high * std::cos(angle) + low * std::sin(angle);
      }
    }
  }
  return out;
}

}  // namespace rattan::kernels::ref
