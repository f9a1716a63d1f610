#include "rattan/kernels/rms_norm.h"

#include "rattan/base/parallel.h"
#include "rattan/kernels/cpu/lanes.h"
#include "rattan/kernels/cpu/scratch.h"

namespace rattan::kernels::RATTAN_ISA {
namespace rms_norm_file {

// One row is read from memory once: the second loop finds it in the first-level cache.
template <bool with_branch, class T>
void forward_row(const AddRmsNormForward<T>& a, int64_t row) {
  const float* x = a.x + row * a.dim;
  const T* branch = with_branch ? a.branch + row * a.dim : nullptr;
  float* sum = with_branch && a.sum ? a.sum + row * a.dim : nullptr;
  T* y = a.y + row * a.dim;
  Vec squares[4] = {zero(), zero(), zero(), zero()};
  for_lanes_by_four(a.dim, [&](int64_t i, auto part, int k) {
    Vec s = load(x + i, part);
    if constexpr (with_branch) s += load(branch + i, part);
    if (sum) store(sum + i, s, part);
    squares[k] = fma(s, s, squares[k]);
  });
  float mean = RATTAN_ISA::sum((squares[0] + squares[1]) + (squares[2] + squares[3])) / static_cast<float>(a.dim);
  float rstd = 1.0f / __builtin_sqrtf(mean + a.eps);
  a.rstd[row] = rstd;
  const float* again = sum ? sum : x;
  bool add_again = with_branch && !sum;
  for_lanes(a.dim, [&](int64_t i, auto part) {
    Vec s = load(again + i, part);
    if constexpr (with_branch) {
      if (add_again) s += load(branch + i, part);
    }
    store(y + i, s * splat(rstd) * load(a.weight + i, part), part);
  });
}

template <class T>
void forward(const AddRmsNormForward<T>& a) {
  int64_t step = rows_per_task(a.dim);
  parallel_for(ceil_div(a.rows, step), [&](int64_t task) {
    int64_t end = (task + 1) * step < a.rows ? (task + 1) * step : a.rows;
    for (int64_t row = task * step; row < end; ++row) {
      a.branch ? forward_row<true>(a, row) : forward_row<false>(a, row);
    }
  });
}

// Adds this row's share to d_weight and writes its ds.
template <bool with_through, bool with_branch, class T>
void backward_row(const AddRmsNormBackward<T>& a, int64_t row, float* d_weight) {
  const float* s = a.sum + row * a.dim;
  const T* dy = a.d_y + row * a.dim;
  const float* through = with_through ? a.d_sum_in + row * a.dim : nullptr;
  float* ds = a.d_sum + row * a.dim;
  T* d_branch = with_branch ? a.d_branch + row * a.dim : nullptr;
  float rstd = a.rstd[row];
  Vec r = splat(rstd);
  Vec dots[4] = {zero(), zero(), zero(), zero()};
  for_lanes_by_four(a.dim, [&](int64_t i, auto part, int k) {
    Vec dy_s = load(dy + i, part) * load(s + i, part);
    dots[k] = fma(dy_s, load(a.weight + i, part), dots[k]);
    store(d_weight + i, fma(dy_s, r, load(d_weight + i, part)), part);
  });
  float mean = sum((dots[0] + dots[1]) + (dots[2] + dots[3])) / static_cast<float>(a.dim);
  Vec pull = splat(rstd * rstd * rstd * mean);
  for_lanes(a.dim, [&](int64_t i, auto part) {
    Vec d = fnma(load(s + i, part), pull, r * load(dy + i, part) * load(a.weight + i, part));
    if constexpr (with_through) d += load(through + i, part);
    store(ds + i, d, part);
    if constexpr (with_branch) store(d_branch + i, d, part);
  });
}

// Rows are summed into d_weight in blocks of fixed size, the blocks then in order.
constexpr int64_t block_rows = 64;

template <class T>
void backward(const AddRmsNormBackward<T>& a) {
  int64_t blocks = ceil_div(a.rows, block_rows);
  Scratch scratch(Scratch::size<float>(blocks * a.dim));
  float* partial = scratch.take<float>(blocks * a.dim);
  parallel_for(blocks, [&](int64_t block) {
    float* d_weight = partial + block * a.dim;
    fill_zero(d_weight, a.dim);
    int64_t end = (block + 1) * block_rows < a.rows ? (block + 1) * block_rows : a.rows;
    for (int64_t row = block * block_rows; row < end; ++row) {
      if (a.d_sum_in) {
        a.d_branch ? backward_row<true, true>(a, row, d_weight) : backward_row<true, false>(a, row, d_weight);
      } else {
        a.d_branch ? backward_row<false, true>(a, row, d_weight) : backward_row<false, false>(a, row, d_weight);
      }
    }
  });
  for_lanes(a.dim, [&](int64_t i, auto part) {
    Vec total = zero();
    for (int64_t block = 0; block < blocks; ++block) total += load(partial + block * a.dim + i, part);
    store(a.d_weight + i, total, part);
  });
}

}  // namespace rms_norm_file

void add_rms_norm_forward(const AddRmsNormForward<float>& a) { rms_norm_file::forward(a); }
void add_rms_norm_forward(const AddRmsNormForward<bf16>& a) { rms_norm_file::forward(a); }
void add_rms_norm_backward(const AddRmsNormBackward<float>& a) { rms_norm_file::backward(a); }
void add_rms_norm_backward(const AddRmsNormBackward<bf16>& a) { rms_norm_file::backward(a); }

}  // namespace rattan::kernels::RATTAN_ISA
