#include "rattan/kernels/cross_entropy.h"

#include "rattan/base/parallel.h"
#include "rattan/kernels/cpu/lanes.h"

namespace rattan::kernels::RATTAN_ISA {
namespace cross_entropy_file {

constexpr float infinity = __builtin_inff();

// sum_j exp(x_j - highest) and the highest x_j.
struct Softmax {
  float highest, sum;
};

// Online over pieces of the row that fit the first-level cache, so that the row is read from memory once whatever
// its length. NaN does not count as the highest but makes the sum NaN.
constexpr int64_t piece = 2048;

template <class T>
Softmax softmax_of(const T* x, int64_t vocabulary) {
  float highest = -infinity;
  Vec total = zero();
  for (int64_t begin = 0; begin < vocabulary; begin += piece) {
    int64_t n = vocabulary - begin < piece ? vocabulary - begin : piece;
    const T* p = x + begin;
    Vec tops[4] = {splat(-infinity), splat(-infinity), splat(-infinity), splat(-infinity)};
    for_lanes_by_four(n, [&](int64_t i, auto part, int k) { tops[k] = max(load_or(p + i, -infinity, part), tops[k]); });
    float top = hmax(max(max(tops[0], tops[1]), max(tops[2], tops[3])));
    if (top > highest) {
      total *= splat(exp(highest - top));
      highest = top;
    }
    // Nothing but -inf so far: its exponentials are 0, though -inf - -inf is not.
    Vec base = splat(highest == -infinity ? 0.0f : highest);
    Vec sums[4] = {zero(), zero(), zero(), zero()};
    for_lanes_by_four(n, [&](int64_t i, auto part, int k) { sums[k] += exp(load_or(p + i, -infinity, part) - base); });
    total += (sums[0] + sums[1]) + (sums[2] + sums[3]);
  }
  return {highest, sum(total)};
}

inline float stored_to_float(float x) { return x; }
inline float stored_to_float(bf16 x) { return to_float(x); }
inline void store_one(float* p, float x) { *p = x; }
inline void store_one(bf16* p, float x) { *p = to_bf16(x); }

template <class T>
void one_row(const CrossEntropy<T>& a, int64_t row) {
  T* x = a.logits.at(row);
  int64_t target = a.target[row];
  if (target < 0) {
    a.loss[row] = 0;
    if (a.gradient) fill_zero(x, a.vocabulary);
    return;
  }
  float weight = a.weight ? a.weight[row] : 1.0f;
  Softmax s = softmax_of(x, a.vocabulary);
  float at_target = stored_to_float(x[target]);
  a.loss[row] = weight * ((s.highest - at_target) + __builtin_logf(s.sum));
  if (!a.gradient) return;
  Vec highest = splat(s.highest), scale = splat(weight / s.sum);
  for_lanes(a.vocabulary, [&](int64_t i, auto part) { store(x + i, exp(load(x + i, part) - highest) * scale, part); });
  store_one(x + target, weight * (exp(at_target - s.highest) / s.sum - 1.0f));
}

template <class T>
void run(const CrossEntropy<T>& a) {
  int64_t step = rows_per_task(a.vocabulary);
  parallel_for(ceil_div(a.rows, step), [&](int64_t task) {
    int64_t end = (task + 1) * step < a.rows ? (task + 1) * step : a.rows;
    for (int64_t row = task * step; row < end; ++row) one_row(a, row);
  });
}

}  // namespace cross_entropy_file

void cross_entropy(const CrossEntropy<float>& a) { cross_entropy_file::run(a); }
void cross_entropy(const CrossEntropy<bf16>& a) { cross_entropy_file::run(a); }

}  // namespace rattan::kernels::RATTAN_ISA
