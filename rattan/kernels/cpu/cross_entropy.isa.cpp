#include "rattan/kernels/cross_entropy.h"

#include "rattan/base/parallel.h"
#include "rattan/kernels/cpu/lanes.h"
#include "rattan/kernels/cpu/scratch.h"

namespace rattan::kernels::RATTAN_ISA {
namespace cross_entropy_file {

constexpr float infinity = __builtin_inff();

// A row is worked through in pieces that fit the first-level cache, so that it is read from memory once whatever its
// length. `highest` is that of the row so far; the exponentials of piece i are taken against highest_of[i].
constexpr int64_t piece = 2048;

struct Softmax {
  float highest, sum;  // of the whole row: max_j x_j and sum_j exp(x_j - highest)
};

// Writes exp(x_j - highest_of[j / piece]) to exponentials[j], if not null; it may be x. NaN does not count as the
// highest but makes the sum NaN.
template <class T>
Softmax softmax_of(const T* x, int64_t vocabulary, float* exponentials, float* highest_of) {
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
    float base = highest == -infinity ? 0.0f : highest;
    Vec sums[4] = {zero(), zero(), zero(), zero()};
    for_lanes_by_four(n, [&](int64_t i, auto part, int k) {
      Vec e = exp(load_or(p + i, -infinity, part) - splat(base));
      if (exponentials) store(exponentials + begin + i, e, part);
      sums[k] += e;
    });
    total += (sums[0] + sums[1]) + (sums[2] + sums[3]);
    if (exponentials) highest_of[begin / piece] = base;
  }
  return {highest, sum(total)};
}

inline float stored_to_float(float x) { return x; }
inline float stored_to_float(bf16 x) { return to_float(x); }
inline void store_one(float* p, float x) { *p = x; }
inline void store_one(bf16* p, float x) { *p = to_bf16(x); }

inline float* as_floats(float* x) { return x; }
inline float* as_floats(bf16*) { return nullptr; }

// `scratch` holds a row of exponentials (where x itself, being bf16, cannot) and the highest logit of each piece.
template <class T>
void one_row(const CrossEntropy<T>& a, int64_t row, float* scratch) {
  T* x = a.logits.at(row);
  int64_t target = a.target[row];
  if (target < 0) {
    a.loss[row] = 0;
    if (a.gradient) fill_zero(x, a.vocabulary);
    return;
  }
  float weight = a.weight ? a.weight[row] : 1.0f;
  float at_target = stored_to_float(x[target]);
  float* highest_of = scratch;
  float* exponentials = as_floats(x) ? as_floats(x) : scratch + round_up(ceil_div(a.vocabulary, piece), W);
  Softmax s = softmax_of(x, a.vocabulary, a.gradient ? exponentials : nullptr, highest_of);
  a.loss[row] = weight * ((s.highest - at_target) + __builtin_logf(s.sum));
  if (!a.gradient) return;
  for (int64_t begin = 0; begin < a.vocabulary; begin += piece) {
    int64_t n = a.vocabulary - begin < piece ? a.vocabulary - begin : piece;
    Vec scale = splat(weight / s.sum * exp(highest_of[begin / piece] - s.highest));
    const float* e = exponentials + begin;
    for_lanes(n, [&](int64_t i, auto part) { store(x + begin + i, load(e + i, part) * scale, part); });
  }
  store_one(x + target, weight * (exp(at_target - s.highest) / s.sum - 1.0f));
}

template <class T>
void run(const CrossEntropy<T>& a) {
  int64_t step = rows_per_task(a.vocabulary);
  int64_t scratch_size = round_up(ceil_div(a.vocabulary, piece), W) + a.vocabulary;
  parallel_for(ceil_div(a.rows, step), [&](int64_t task) {
    Scratch scratch(Scratch::size<float>(scratch_size));
    float* floats = scratch.take<float>(scratch_size);
    int64_t end = (task + 1) * step < a.rows ? (task + 1) * step : a.rows;
    for (int64_t row = task * step; row < end; ++row) one_row(a, row, floats);
  });
}

}  // namespace cross_entropy_file

void cross_entropy(const CrossEntropy<float>& a) { cross_entropy_file::run(a); }
void cross_entropy(const CrossEntropy<bf16>& a) { cross_entropy_file::run(a); }

}  // namespace rattan::kernels::RATTAN_ISA
