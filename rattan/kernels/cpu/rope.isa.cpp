#include "rattan/kernels/rope.h"

#include "rattan/base/parallel.h"
#include "rattan/kernels/cpu/lanes.h"

namespace rattan::kernels::RATTAN_ISA {
namespace rope_file {

template <class T>
void rotate(const Rope<T>& a, int64_t row) {
  int64_t half = a.dim / 2;
  const float* cos = a.cos + a.position[row] * half;
  const float* sin = a.sin + a.position[row] * half;
  Vec sign = splat(a.inverse ? -1.0f : 1.0f);
  for (int64_t head = 0; head < a.heads; ++head) {
    const T* x = a.x.at(row, head);
    T* out = a.out.at(row, head);
    for_lanes(half, [&](int64_t i, auto part) {
      Vec c = load(cos + i, part), s = load(sin + i, part) * sign;
      Vec low = load(x + i, part), high = load(x + half + i, part);
      store(out + i, fnma(high, s, low * c), part);
      store(out + half + i, fma(low, s, high * c), part);
    });
  }
}

template <class T>
void run(const Rope<T>& a) {
  int64_t step = rows_per_task(a.heads * a.dim);
  parallel_for(ceil_div(a.rows, step), [&](int64_t task) {
    int64_t end = (task + 1) * step < a.rows ? (task + 1) * step : a.rows;
    for (int64_t row = task * step; row < end; ++row) rotate(a, row);
  });
}

}  // namespace rope_file

void rope(const Rope<float>& a) { rope_file::run(a); }
void rope(const Rope<bf16>& a) { rope_file::run(a); }

}  // namespace rattan::kernels::RATTAN_ISA
