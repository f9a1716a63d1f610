#include "rattan/kernels/activation.h"

#include "rattan/base/parallel.h"
#include "rattan/kernels/cpu/lanes.h"

namespace rattan::kernels::RATTAN_ISA {
namespace activation_file {

// The normal distribution function Phi and the derivative of gelu, both as 1/2 + x P(x^2) / D(x^2) on [-limit, limit],
// constant outside: minimax fits of this project's own (Lawson's iteration on linearised least squares, weighted so
// that x Phi(x) counts for Phi). The fits are off by 1.2e-8 and 1.1e-7; in fp32 gelu and its derivative are within
// 1e-6 everywhere. Half the work of the form with exp, so that memory is the limit in bf16 too.
struct OddRational {
  float limit;
  float p[6], d[5];  // ascending powers of x^2; d without its leading 1
};

constexpr OddRational normal_cdf = {
    5.3f,
    {0.39894211f, 0.0338968953f, 0.00468773393f, 0.000170368558f, 6.46819396e-06f, 2.33872724e-08f},
    {0.251631769f, 0.0286916621f, 0.00189249541f, 7.46999412e-05f, 1.22464578e-06f}};

constexpr OddRational gelu_slope = {
    5.6f,
    {0.797885345f, -0.030975364f, 0.0142260692f, 1.97512143e-05f, 3.58992949e-05f, 1.92167379e-07f},
    {0.294519571f, 0.0409837397f, 0.00352263743f, 0.000192051789f, 8.92817398e-06f}};

template <const OddRational& f>
inline Vec half_plus(Vec x) {
  x = min(splat(f.limit), max(splat(-f.limit), x));
  Vec s = x * x;
  Vec p = splat(f.p[5]), d = splat(f.d[4]);
#pragma GCC unroll 5
  for (int i = 4; i >= 0; --i) {
    p = fma(p, s, splat(f.p[i]));
    d = fma(d, s, splat(i > 0 ? f.d[i - 1] : 1.0f));
  }
  return splat(0.5f) + x * p / d;
}

// Below the limit Phi is 6e-8 at most, but an error of that size would grow with x: there gelu is 0.
inline Vec gelu(Vec x) { return select(x < splat(-normal_cdf.limit), zero(), x * half_plus<normal_cdf>(x)); }

template <Activation kind>
inline Vec value(Vec a, Vec b) {
  if constexpr (kind == Activation::gelu) return gelu(a);
  if constexpr (kind == Activation::swiglu) return a * sigmoid(a) * b;
  if constexpr (kind == Activation::sigmoid_mul) return sigmoid(a) * b;
}

struct Gradient {
  Vec a, b;
};

template <Activation kind>
inline Gradient gradient(Vec a, Vec b, Vec d) {
  if constexpr (kind == Activation::gelu) return {d * half_plus<gelu_slope>(a), zero()};
  Vec s = sigmoid(a);
  Vec slope = s * (splat(1.0f) - s);
  if constexpr (kind == Activation::swiglu) return {d * b * fma(a, slope, s), d * a * s};
  if constexpr (kind == Activation::sigmoid_mul) return {d * b * slope, d * s};
}

template <Activation kind, class T>
void forward_row(const ActivationForward<T>& a, int64_t row) {
  const T *x = a.a.at(row), *y = kind == Activation::gelu ? x : a.b.at(row);
  T* out = a.out.at(row);
  for_lanes(a.dim,
            [&](int64_t i, auto part) { store(out + i, value<kind>(load(x + i, part), load(y + i, part)), part); });
}

template <Activation kind, class T>
void backward_row(const ActivationBackward<T>& a, int64_t row) {
  const T *x = a.a.at(row), *y = kind == Activation::gelu ? x : a.b.at(row), *d = a.d_out.at(row);
  T *dx = a.d_a.at(row), *dy = kind == Activation::gelu ? nullptr : a.d_b.at(row);
  for_lanes(a.dim, [&](int64_t i, auto part) {
    Gradient g = gradient<kind>(load(x + i, part), load(y + i, part), load(d + i, part));
    store(dx + i, g.a, part);
    if constexpr (kind != Activation::gelu) store(dy + i, g.b, part);
  });
}

template <class Row>
void for_rows(int64_t rows, int64_t dim, Row&& row) {
  int64_t step = rows_per_task(dim);
  parallel_for(ceil_div(rows, step), [&](int64_t task) {
    int64_t end = (task + 1) * step < rows ? (task + 1) * step : rows;
    for (int64_t r = task * step; r < end; ++r) row(r);
  });
}

template <class T>
void forward(const ActivationForward<T>& a) {
  using enum Activation;
  if (a.kind == gelu) for_rows(a.rows, a.dim, [&](int64_t r) { forward_row<gelu>(a, r); });
  if (a.kind == swiglu) for_rows(a.rows, a.dim, [&](int64_t r) { forward_row<swiglu>(a, r); });
  if (a.kind == sigmoid_mul) for_rows(a.rows, a.dim, [&](int64_t r) { forward_row<sigmoid_mul>(a, r); });
}

template <class T>
void backward(const ActivationBackward<T>& a) {
  using enum Activation;
  if (a.kind == gelu) for_rows(a.rows, a.dim, [&](int64_t r) { backward_row<gelu>(a, r); });
  if (a.kind == swiglu) for_rows(a.rows, a.dim, [&](int64_t r) { backward_row<swiglu>(a, r); });
  if (a.kind == sigmoid_mul) for_rows(a.rows, a.dim, [&](int64_t r) { backward_row<sigmoid_mul>(a, r); });
}

}  // namespace activation_file

void activation_forward(const ActivationForward<float>& a) { activation_file::forward(a); }
void activation_forward(const ActivationForward<bf16>& a) { activation_file::forward(a); }
void activation_backward(const ActivationBackward<float>& a) { activation_file::backward(a); }
void activation_backward(const ActivationBackward<bf16>& a) { activation_file::backward(a); }

}  // namespace rattan::kernels::RATTAN_ISA
