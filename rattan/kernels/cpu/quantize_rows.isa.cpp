#include "rattan/kernels/quantize_rows.h"

#include "rattan/base/parallel.h"
#include "rattan/kernels/cpu/lanes.h"

namespace rattan::kernels::RATTAN_ISA {
namespace quantize_rows_file {

// The largest absolute value, NaN left out. Compared as integers, whose order is that of positive floats.
template <class T>
float largest(const T* x, int64_t dim) {
  uint32_t most = 0;
  for (int64_t i = 0; i < dim; ++i) {
    const uint32_t size = std::bit_cast<uint32_t>(to_float(x[i])) & 0x7fffffffu;
    const uint32_t counted = size > 0x7f800000u ? 0 : size;
    most = counted > most ? counted : most;
  }
  return std::bit_cast<float>(most);
}

template <class T>
void row(const QuantizeRows<T>& a, int64_t r) {
  const T* x = a.x.at(r);
  e4m3* y = a.y.at(r);
  float most = largest(x, a.dim);
  most = most > quantize_rows_least ? most : quantize_rows_least;
  const float inverse = e4m3_most / most;
  for (int64_t i = 0; i < a.dim; ++i) y[i] = to_e4m3(to_float(x[i]) * inverse);
  a.scale[r] = most / e4m3_most;
}

template <class T>
void rows(const QuantizeRows<T>& a) {
  const int64_t step = rows_per_task(a.dim);
  parallel_for(ceil_div(a.rows, step), [&](int64_t task) {
    const int64_t end = (task + 1) * step < a.rows ? (task + 1) * step : a.rows;
    for (int64_t r = task * step; r < end; ++r) row(a, r);
  });
}

}  // namespace quantize_rows_file

void quantize_rows(const QuantizeRows<float>& a) { quantize_rows_file::rows(a); }
void quantize_rows(const QuantizeRows<bf16>& a) { quantize_rows_file::rows(a); }

}  // namespace rattan::kernels::RATTAN_ISA
