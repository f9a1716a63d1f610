#include "rattan/kernels/activation.h"

#include "rattan/base/parallel.h"
#include "rattan/kernels/cpu/lanes.h"

namespace rattan::kernels::RATTAN_ISA {
namespace activation_file {

// The normal distribution: Phi(-x) = exp(-x^2/2) R(1 / (1 + c x)) for x >= 0 with a polynomial R, a minimax fit of
// this project's own (the form is that of Abramowitz & Stegun 7.1.26). In fp32 Phi is off by less than 2e-7 and
// its lower tail by less than 4e-6 of itself down to -3, so gelu keeps its small negative values.
struct Normal {
  Vec cdf, exp_half_square;  // Phi(x), exp(-x^2/2)
};

inline Normal normal(Vec x) {
  Vec size = abs(x);
  Vec t = splat(1.0f) / fma(size, splat(0.3375f), splat(1.0f));
  Vec r = splat(0.04355120658874512f);
  r = fma(r, t, splat(-0.19904394447803497f));
  r = fma(r, t, splat(0.2686562240123749f));
  r = fma(r, t, splat(-0.03356454521417618f));
  r = fma(r, t, splat(0.15664558112621307f));
  r = fma(r, t, splat(0.1287411004304886f));
  r = fma(r, t, splat(0.1350143551826477f));
  Vec e = exp(x * x * splat(-0.5f));
  Vec tail = r * t * e;
  return {select(x > zero(), splat(1.0f) - tail, tail), e};
}

template <Activation kind>
inline Vec value(Vec a, Vec b) {
  if constexpr (kind == Activation::gelu) return a * normal(a).cdf;
  if constexpr (kind == Activation::swiglu) return a * sigmoid(a) * b;
  if constexpr (kind == Activation::sigmoid_mul) return sigmoid(a) * b;
}

struct Gradient {
  Vec a, b;
};

template <Activation kind>
inline Gradient gradient(Vec a, Vec b, Vec d) {
  if constexpr (kind == Activation::gelu) {
    constexpr float inverse_sqrt_2pi = 0.398942280401432678f;
    Normal n = normal(a);
    return {d * fma(a * splat(inverse_sqrt_2pi), n.exp_half_square, n.cdf), zero()};
  }
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
