#include "rattan/kernels/few_rows_linear.h"

#include "rattan/base/parallel.h"
#include "rattan/kernels/cpu/simd.h"

namespace rattan::kernels::RATTAN_ISA {
namespace few_rows_linear_file {

// R rows times O outputs are summed at once; with 16 sums in flight the multiply-adds never wait for each other.
constexpr int64_t sums = 16;

// totals[i] = the sum over the lanes of partial[i].
void add_lanes(const Vec* partial, float* totals) {
  alignas(64) float lanes[sums * W], turned[W * W];
  for (int64_t i = 0; i < sums; ++i) store(lanes + i * W, partial[i]);
  for (int64_t i = 0; i < sums; i += W) {
    transpose_block(lanes + i * W, W, turned, W);
    Vec total = load(turned);
    for (int64_t lane = 1; lane < W; ++lane) total += load(turned + lane * W);
    store(totals + i, total);
  }
}

// Rows [row, row + R) of y, outputs [first, first + O); outputs from `end` on are computed from the last one that
// there is and not written.
template <int R>
void tile(const FewRowsLinear& a, int64_t row, int64_t first, int64_t end) {
  constexpr int O = sums / R;
  const float* x[R];
  const float* w[O];
  for (int r = 0; r < R; ++r) x[r] = a.x.at(row + r);
  for (int o = 0; o < O; ++o) w[o] = a.w.at(first + o < end ? first + o : end - 1);
  Vec partial[sums];
  for (int i = 0; i < sums; ++i) partial[i] = zero();
  int64_t k = 0;
  for (; k + W <= a.in; k += W) {
    Vec rows[R];
    for (int r = 0; r < R; ++r) rows[r] = load(x[r] + k);
    for (int o = 0; o < O; ++o) {
      Vec weight = load(w[o] + k);
      __builtin_prefetch(w[o] + k + O * a.w.row);  // rows are too short for the processor to foresee the next
      for (int r = 0; r < R; ++r) partial[r * O + o] = fma(rows[r], weight, partial[r * O + o]);
    }
  }
  if (k < a.in) {
    for (int o = 0; o < O; ++o) {
      Vec weight = load_n(w[o] + k, a.in - k);
      for (int r = 0; r < R; ++r) partial[r * O + o] = fma(load_n(x[r] + k, a.in - k), weight, partial[r * O + o]);
    }
  }
  float totals[sums];
  add_lanes(partial, totals);
  for (int r = 0; r < R; ++r) {
    for (int o = 0; o < O && first + o < end; ++o) a.y.at(row + r)[first + o] = totals[r * O + o];
  }
}

template <int R>
void rows_of(const FewRowsLinear& a, int64_t row, int64_t begin, int64_t end) {
  for (int64_t first = begin; first < end; first += sums / R) tile<R>(a, row, first, end);
}

}  // namespace few_rows_linear_file

void few_rows_linear(const FewRowsLinear& a) {
  using namespace few_rows_linear_file;
  // A task's part of the weight stays in the first-level cache while all rows pass by.
  constexpr int64_t task_bytes = 16 << 10;
  int64_t step = round_up(task_bytes / 4 / (a.in > 0 ? a.in : 1) + 1, sums);
  parallel_for(ceil_div(a.out, step), [&](int64_t task) {
    int64_t begin = task * step, end = begin + step < a.out ? begin + step : a.out;
    int64_t row = 0;
    for (; row + 8 <= a.rows; row += 8) rows_of<8>(a, row, begin, end);
    for (; row + 4 <= a.rows; row += 4) rows_of<4>(a, row, begin, end);
    for (; row + 2 <= a.rows; row += 2) rows_of<2>(a, row, begin, end);
    for (; row < a.rows; ++row) rows_of<1>(a, row, begin, end);
  });
}

}  // namespace rattan::kernels::RATTAN_ISA
