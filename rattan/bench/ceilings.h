#pragma once
#include "rattan/bench/layer.h"

namespace rattan::bench {

// What this machine reaches, measured now: the product [rows, d] x [d, width], and a copy larger than any cache.
Ceilings measure_ceilings(int64_t rows, int64_t d_model, int64_t width, at::ScalarType dtype, at::Device device);

}  // namespace rattan::bench
