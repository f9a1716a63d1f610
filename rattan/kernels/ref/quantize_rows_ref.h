// Rows rounded to e4m3 (kernels/quantize_rows.h) in float64.
#pragma once
#include <cstdint>
#include <vector>

namespace rattan::kernels::ref {

// The e4m3 value nearest to x; of two, the one of even significand; at most 448 in size.
double nearest_e4m3(double x);

struct QuantizedRows {
  std::vector<double> y;      // [rows, dim], values of e4m3
  std::vector<double> scale;  // [rows]
};

QuantizedRows quantize_rows(const std::vector<double>& x, int64_t rows, int64_t dim);

}  // namespace rattan::kernels::ref
