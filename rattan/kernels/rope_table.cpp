#include <algorithm>
#include <cmath>

#include "rattan/base/error.h"
#include "rattan/base/parallel.h"
#include "rattan/kernels/rope.h"

namespace rattan::kernels {

void rope_table(int64_t positions, int64_t dim, double base, float* cos, float* sin) {
  require(dim % 2 == 0, "rotary embedding needs an even head dimension, got {}", dim);
  int64_t half = dim / 2;
  constexpr int64_t positions_per_task = 256;
  parallel_for(ceil_div(positions, positions_per_task), [&](int64_t task) {
    int64_t end = std::min(positions, (task + 1) * positions_per_task);
    for (int64_t i = 0; i < half; ++i) {
      double frequency = std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(dim));
      for (int64_t p = task * positions_per_task; p < end; ++p) {
        double angle = static_cast<double>(p) * frequency;
        cos[p * half + i] = static_cast<float>(std::cos(angle));
        sin[p * half + i] = static_cast<float>(std::sin(angle));
      }
    }
  });
}

}  // namespace rattan::kernels
