#include "rattan/base/parallel.h"
#include "rattan/kernels/cpu/mxint8_row.h"

namespace rattan::kernels::RATTAN_ISA {
namespace mxint8_file {

template <class Body>
void each_row(int64_t rows, int64_t width, Body&& body) {
  const int64_t step = rows_per_task(width);
  parallel_for(ceil_div(rows, step), [&](int64_t task) {
    const int64_t end = (task + 1) * step < rows ? (task + 1) * step : rows;
    for (int64_t r = task * step; r < end; ++r) body(r);
  });
}

// A row of any length through fp32, in pieces of a block.
template <class T>
void load_row(const int8_t* code, const uint8_t* exponent, int64_t dim, T* y) {
  float x[mxint8_block];
  for (int64_t c = 0; c < dim; c += mxint8_block) {
    const int64_t n = dim - c < mxint8_block ? dim - c : mxint8_block;
    decode_row(code + c, exponent + c / mxint8_block, n, x);
    for_lanes(n, [&](int64_t i, auto part) { store(y + c + i, load(x + i, part), part); });
  }
}

template <class T>
void store_rows(const Mxint8Store<T>& a) {
  each_row(a.rows, a.heads * a.dim, [&](int64_t i) {
    const int64_t from = a.from ? a.from[i] : i, to = a.to[i];
    for (int64_t h = 0; h < a.heads; ++h)
      encode_row(a.x.at(from, h), a.dim, a.y.code.at(to, h), a.y.exponent.at(to, h));
  });
}

template <class T>
void load_rows(const Mxint8Load<T>& a) {
  each_row(a.rows, a.heads * a.dim, [&](int64_t i) {
    for (int64_t h = 0; h < a.heads; ++h)
      load_row(a.x.code.at(a.from[i], h), a.x.exponent.at(a.from[i], h), a.dim, a.y.at(i, h));
  });
}

template <class T>
void round_rows(const Mxint8Round<T>& a) {
  each_row(a.rows, a.heads * a.dim, [&](int64_t i) {
    const int64_t row = a.at ? a.at[i * a.stride] : i;
    float x[mxint8_block];
    for (int64_t h = 0; h < a.heads; ++h) {
      T* y = a.x.at(row, h);
      for (int64_t c = 0; c < a.dim; c += mxint8_block) {
        const int64_t n = a.dim - c < mxint8_block ? a.dim - c : mxint8_block;
        for_lanes(n, [&](int64_t k, auto part) { store(x + k, load(y + c + k, part), part); });
        round_row(x, n);
        for_lanes(n, [&](int64_t k, auto part) { store(y + c + k, load(x + k, part), part); });
      }
    }
  });
}

}  // namespace mxint8_file

void mxint8_store(const Mxint8Store<float>& a) { mxint8_file::store_rows(a); }
void mxint8_store(const Mxint8Store<bf16>& a) { mxint8_file::store_rows(a); }
void mxint8_load(const Mxint8Load<float>& a) { mxint8_file::load_rows(a); }
void mxint8_load(const Mxint8Load<bf16>& a) { mxint8_file::load_rows(a); }
void mxint8_round(const Mxint8Round<float>& a) { mxint8_file::round_rows(a); }
void mxint8_round(const Mxint8Round<bf16>& a) { mxint8_file::round_rows(a); }

}  // namespace rattan::kernels::RATTAN_ISA
