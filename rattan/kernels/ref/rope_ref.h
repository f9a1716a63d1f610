// Rotary position embedding (kernels/rope.h) in float64, straight from the angles.
#pragma once
#include <cstdint>
#include <vector>

namespace rattan::kernels::ref {

// x: [rows, heads, dim], position: [rows]. `inverse` rotates by the negative angle.
std::vector<double> rope(const std::vector<double>& x, const std::vector<int32_t>& position, int64_t heads, int64_t dim,
                         double base, bool inverse);

}  // namespace rattan::kernels::ref
