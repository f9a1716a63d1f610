#include "rattan/kernels/rms_norm.h"

#include "rattan/base/parallel.h"
#include "rattan/kernels/cpu/lanes.h"
#include "rattan/kernels/cpu/scratch.h"

namespace rattan::kernels::RATTAN_ISA {
namespace rms_norm_file {

const float* usable_weights(const float* weight, int64_t dim, float* out) {
  for (int64_t i = 0; i < dim; ++i)
    out[i] =
        __builtin_fabsf(weight[i]) < least_norm_weight ? __builtin_copysignf(least_norm_weight, weight[i]) : weight[i];
  return out;
}

// One row is read from memory once: the second loop finds it in the first-level cache.
template <bool with_branch, class T>
void forward_row(const AddRmsNormForward<T>& a, const float* weight, int64_t row) {
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
    store(y + i, s * splat(rstd) * load(weight + i, part), part);
  });
}

template <class T>
void forward(const AddRmsNormForward<T>& a) {
  int64_t step = rows_per_task(a.dim);
  Scratch scratch(Scratch::size<float>(a.dim));
  const float* weight = usable_weights(a.weight, a.dim, scratch.take<float>(a.dim));
  parallel_for(ceil_div(a.rows, step), [&](int64_t task) {
    int64_t end = (task + 1) * step < a.rows ? (task + 1) * step : a.rows;
    for (int64_t row = task * step; row < end; ++row) {
      a.branch ? forward_row<true>(a, weight, row) : forward_row<false>(a, weight, row);
    }
  });
}

// Adds this row's dy y to `products` and writes its ds.
template <bool with_through, bool with_branch, class T>
void backward_row(const AddRmsNormBackward<T>& a, const float* weight, const float* inverse, int64_t row,
                  float* products) {
  const T *y = a.y + row * a.dim, *dy = a.d_y + row * a.dim;
  const float* through = with_through ? a.d_sum_in + row * a.dim : nullptr;
  float* ds = a.d_sum + row * a.dim;
  T* d_branch = with_branch ? a.d_branch + row * a.dim : nullptr;
  Vec dots[4] = {zero(), zero(), zero(), zero()};
  for_lanes_by_four(a.dim, [&](int64_t i, auto part, int k) {
    Vec product = load(dy + i, part) * load(y + i, part);
    dots[k] += product;
    store(products + i, product + load(products + i, part), part);
  });
  Vec mean = splat(sum((dots[0] + dots[1]) + (dots[2] + dots[3])) / static_cast<float>(a.dim));
  Vec r = splat(a.rstd[row]);
  for_lanes(a.dim, [&](int64_t i, auto part) {
    Vec pull = load(y + i, part) * load(inverse + i, part) * mean;
    Vec d = r * (load(dy + i, part) * load(weight + i, part) - pull);
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
  Scratch scratch(Scratch::size<float>(blocks * a.dim) + 2 * Scratch::size<float>(a.dim));
  float* partial = scratch.take<float>(blocks * a.dim);
  const float* weight = usable_weights(a.weight, a.dim, scratch.take<float>(a.dim));
  float* inverse = scratch.take<float>(a.dim);
  for (int64_t i = 0; i < a.dim; ++i) inverse[i] = 1 / weight[i];
  parallel_for(blocks, [&](int64_t block) {
    float* products = partial + block * a.dim;
    fill_zero(products, a.dim);
    int64_t end = (block + 1) * block_rows < a.rows ? (block + 1) * block_rows : a.rows;
    for (int64_t row = block * block_rows; row < end; ++row) {
      if (a.d_sum_in) {
        a.d_branch ? backward_row<true, true>(a, weight, inverse, row, products)
                   : backward_row<true, false>(a, weight, inverse, row, products);
      } else {
        a.d_branch ? backward_row<false, true>(a, weight, inverse, row, products)
                   : backward_row<false, false>(a, weight, inverse, row, products);
      }
    }
  });
  for_lanes(a.dim, [&](int64_t i, auto part) {
    Vec total = zero();
    for (int64_t block = 0; block < blocks; ++block) total += load(partial + block * a.dim + i, part);
    store(a.d_weight + i, total * load(inverse + i, part), part);
  });
}

}  // namespace rms_norm_file

void add_rms_norm_forward(const AddRmsNormForward<float>& a) { rms_norm_file::forward(a); }
void add_rms_norm_forward(const AddRmsNormForward<bf16>& a) { rms_norm_file::forward(a); }
void add_rms_norm_backward(const AddRmsNormBackward<float>& a) { rms_norm_file::backward(a); }
void add_rms_norm_backward(const AddRmsNormBackward<bf16>& a) { rms_norm_file::backward(a); }

}  // namespace rattan::kernels::RATTAN_ISA
