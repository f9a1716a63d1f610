// The speed that utilization is measured against.
#pragma once
#include <ATen/core/Tensor.h>

namespace rattan::train {

// FLOP/s of a large matrix product in `dtype` on `device`: the best of several, within about a second.
double measure_peak_flops(at::ScalarType dtype, at::Device device);

}  // namespace rattan::train
