#include "rattan/kernels/few_rows_linear.h"

#include "rattan/base/parallel.h"
#include "rattan/kernels/cpu/gemm.h"

namespace rattan::kernels::RATTAN_ISA {
namespace few_rows_linear_file {

// R rows times O outputs are summed at once; with 16 sums in flight the multiply-adds never wait for each other.
constexpr int64_t sums = 16;

// The totals over the lanes of 16 vectors [16][W].
void add_lanes(const float* lanes, float* totals) {
  alignas(64) float turned[W * W];
  for (int64_t i = 0; i < sums; i += W) {
    transpose_block(lanes + i * W, W, turned, W);
    Vec total = load(turned);
    for (int64_t lane = 1; lane < W; ++lane) total += load(turned + lane * W);
    store(totals + i, total);
  }
}

// What of a row is multiplied by one instruction.
template <class T>
struct Piece {
  static constexpr int64_t size = W;
  static Vec at(const T* x) { return load(x); }
};
#ifdef RATTAN_PAIRS
template <>
struct Piece<bf16> {
  static constexpr int64_t size = 2 * W;
  static PairVec at(const bf16* x) { return load(reinterpret_cast<const Pair*>(x)); }
};
#endif

// Rows [row, row + R) of y, outputs [first, first + O); outputs from `end` on are computed from the last one that
// there is and not written. The sums must stay in registers: nothing may take their address inside the loop.
template <int R, class T>
void tile(const FewRowsLinear<T>& a, int64_t row, int64_t first, int64_t end) {
  constexpr int O = sums / R;
  constexpr int64_t step = Piece<T>::size;
  const T* x[R];
  const T* w[O];
  for (int r = 0; r < R; ++r) x[r] = a.x.at(row + r);
  for (int o = 0; o < O; ++o) w[o] = a.w.at(first + o < end ? first + o : end - 1);
  Vec sum[R][O];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int o = 0; o < O; ++o) sum[r][o] = zero();
  }
  int64_t k = 0;
  for (; k + step <= a.in; k += step) {
    decltype(Piece<T>::at(w[0])) weight[O];
#pragma GCC unroll 16
    for (int o = 0; o < O; ++o) {
      weight[o] = Piece<T>::at(w[o] + k);
      __builtin_prefetch(w[o] + k + O * a.w.row);  // rows are too short for the processor to foresee the next
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const auto piece = Piece<T>::at(x[r] + k);
#pragma GCC unroll 16
      for (int o = 0; o < O; ++o) sum[r][o] = multiply_add(piece, weight[o], sum[r][o]);
    }
  }
  for (; k < a.in; k += W) {
    const int64_t lanes = a.in - k < W ? a.in - k : W;
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Vec piece = load_n(x[r] + k, lanes);
#pragma GCC unroll 16
      for (int o = 0; o < O; ++o) sum[r][o] = fma(piece, load_n(w[o] + k, lanes), sum[r][o]);
    }
  }
  alignas(64) float lanes[sums * W], totals[sums];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int o = 0; o < O; ++o) store(lanes + (r * O + o) * W, sum[r][o]);
  }
  add_lanes(lanes, totals);
  for (int r = 0; r < R; ++r) {
    for (int o = 0; o < O && first + o < end; ++o) store_n(a.y.at(row + r) + first + o, splat(totals[r * O + o]), 1);
  }
}

template <int R, class T>
void rows_of(const FewRowsLinear<T>& a, int64_t row, int64_t begin, int64_t end) {
  for (int64_t first = begin; first < end; first += sums / R) tile<R>(a, row, first, end);
}

template <class T>
void run(const FewRowsLinear<T>& a) {
  // Few tasks, since handing one out costs a cache line's way between the cores; a task's part of the weight stays in
  // the second-level cache while all rows pass by.
  constexpr int64_t task_bytes = 128 << 10;
  const int64_t row_bytes = static_cast<int64_t>(sizeof(T)) * (a.in > 0 ? a.in : 1);
  const int64_t step = round_up(task_bytes / row_bytes + 1, sums);
  parallel_for(ceil_div(a.out, step), [&](int64_t task) {
    const int64_t begin = task * step, end = begin + step < a.out ? begin + step : a.out;
    int64_t row = 0;
    for (; row + 8 <= a.rows; row += 8) rows_of<8>(a, row, begin, end);
    for (; row + 4 <= a.rows; row += 4) rows_of<4>(a, row, begin, end);
    for (; row + 2 <= a.rows; row += 2) rows_of<2>(a, row, begin, end);
    for (; row < a.rows; ++row) rows_of<1>(a, row, begin, end);
  });
}

}  // namespace few_rows_linear_file

void few_rows_linear(const FewRowsLinear<float>& a) { few_rows_linear_file::run(a); }
void few_rows_linear(const FewRowsLinear<bf16>& a) { few_rows_linear_file::run(a); }

}  // namespace rattan::kernels::RATTAN_ISA
