#include "rattan/kernels/rms_norm.h"

#include "rattan/kernels/ref/rms_norm_ref.h"
#include "tests/kernels/kernel_test_util.h"

namespace rattan::kernels::rms_norm_test_file {

constexpr float eps = 1e-5f;

template <class T>
struct Case {
  int64_t rows, dim;
  std::vector<float> x, weight, d_sum_in;
  std::vector<T> branch, d_y;

  Case(uint64_t seed, int64_t rows, int64_t dim) : rows(rows), dim(dim) {
    Rng rng(seed);
    x = random_floats(rng, rows * dim, 3);
    weight = random_floats(rng, dim);
    d_sum_in = random_floats(rng, rows * dim);
    branch = from_doubles<T>(random_normal(rng, rows * dim));
    d_y = from_doubles<T>(random_normal(rng, rows * dim));
  }
};

template <class T>
struct Forward {
  std::vector<float> sum;
  std::vector<T> y;
  std::vector<float> rstd;
  bool operator==(const Forward& other) const {
    return same_bits(sum, other.sum) && same_bits(y, other.y) && same_bits(rstd, other.rstd);
  }
};

template <class T>
Forward<T> forward(const Case<T>& c, bool with_branch, bool with_sum) {
  std::size_t size = static_cast<std::size_t>(c.rows * c.dim);
  Forward<T> out{std::vector<float>(size, NAN), std::vector<T>(size, from_double<T>(NAN)),
                 std::vector<float>(static_cast<std::size_t>(c.rows), NAN)};
  AddRmsNormForward<T> a;
  a.rows = c.rows;
  a.dim = c.dim;
  a.eps = eps;
  a.x = c.x.data();
  a.branch = with_branch ? c.branch.data() : nullptr;
  a.weight = c.weight.data();
  a.sum = with_sum ? out.sum.data() : nullptr;
  a.y = out.y.data();
  a.rstd = out.rstd.data();
  add_rms_norm_forward(a);
  return out;
}

template <class T>
struct Backward {
  std::vector<float> d_sum;
  std::vector<T> d_branch;
  std::vector<float> d_weight;
  bool operator==(const Backward& other) const {
    return same_bits(d_sum, other.d_sum) && same_bits(d_branch, other.d_branch) && same_bits(d_weight, other.d_weight);
  }
};

template <class T>
Backward<T> backward(const Case<T>& c, const Forward<T>& f, bool through, bool with_branch) {
  std::size_t size = static_cast<std::size_t>(c.rows * c.dim);
  Backward<T> out{std::vector<float>(size, NAN), std::vector<T>(size, from_double<T>(NAN)),
                  std::vector<float>(static_cast<std::size_t>(c.dim), NAN)};
  AddRmsNormBackward<T> a;
  a.rows = c.rows;
  a.dim = c.dim;
  a.y = f.y.data();
  a.weight = c.weight.data();
  a.rstd = f.rstd.data();
  a.d_y = c.d_y.data();
  a.d_sum_in = through ? c.d_sum_in.data() : nullptr;
  a.d_sum = out.d_sum.data();
  a.d_branch = with_branch ? out.d_branch.data() : nullptr;
  a.d_weight = out.d_weight.data();
  add_rms_norm_backward(a);
  return out;
}

std::vector<std::pair<int64_t, int64_t>> shapes() {
  return {{1, 1}, {3, 7}, {17, 64}, {130, 100}, {300, 33}, {9, 1030}};
}

template <class T>
class RmsNorm : public ::testing::Test {};
using Types = ::testing::Types<float, bf16>;
TYPED_TEST_SUITE(RmsNorm, Types);

// fp32: the mean square, its root and two products. bf16: the output is rounded once.
template <class T>
constexpr double output_bound = std::is_same_v<T, bf16> ? rounding<bf16>() : 8 * rounding<float>();
constexpr double float_bound = 8 * 0x1p-24;
constexpr double sum_bound = 30 * 0x1p-24;  // fp32 sums over up to 300 rows

TYPED_TEST(RmsNorm, ForwardAddsAndNormalizes) {
  for_each_isa([] {
    uint64_t seed = 400;
    for (auto [rows, dim] : shapes()) {
      SCOPED_TRACE(::testing::Message() << "seed " << seed << ", " << rows << " x " << dim);
      Case<TypeParam> c(seed++, rows, dim);
      for (bool with_branch : {false, true}) {
        auto branch = with_branch ? to_doubles(c.branch) : std::vector<double>{};
        auto expected = ref::add_rms_norm_forward(to_doubles(c.x), branch, to_doubles(c.weight), eps);
        auto out = forward(c, with_branch, with_branch);
        EXPECT_LE(relative_rms_error(to_doubles(out.y), expected.y), output_bound<TypeParam>);
        EXPECT_LE(relative_rms_error(to_doubles(out.rstd), expected.rstd), float_bound);
        if (with_branch) {
          EXPECT_LE(relative_rms_error(to_doubles(out.sum), expected.sum), float_bound);
          auto without_sum = forward(c, true, false);
          EXPECT_TRUE(same_bits(without_sum.y, out.y)) << "the sum is optional";
        }
      }
    }
  });
}

TYPED_TEST(RmsNorm, BackwardIsItsGradient) {
  for_each_isa([] {
    uint64_t seed = 500;
    for (auto [rows, dim] : shapes()) {
      SCOPED_TRACE(::testing::Message() << "seed " << seed << ", " << rows << " x " << dim);
      Case<TypeParam> c(seed++, rows, dim);
      const auto f = forward(c, false, false);
      for (bool through : {false, true}) {
        auto d_sum_in = through ? to_doubles(c.d_sum_in) : std::vector<double>{};
        auto expected = ref::add_rms_norm_backward(to_doubles(f.y), to_doubles(c.weight), to_doubles(f.rstd),
                                                   to_doubles(c.d_y), d_sum_in);
        auto out = backward(c, f, through, true);
        // A single element cancels to almost nothing (its gradient is eps-small): measured against dy then.
        double scale = dim == 1 && !through ? rms(to_doubles(c.d_y)) / rms(expected.d_sum) : 1;
        EXPECT_LE(relative_rms_error(to_doubles(out.d_sum), expected.d_sum), float_bound * std::max(scale, 1.0));
        EXPECT_LE(relative_rms_error(to_doubles(out.d_weight), expected.d_weight), sum_bound);
        EXPECT_TRUE(same_bits(out.d_branch, from_doubles<TypeParam>(to_doubles(out.d_sum)))) << "d_branch is ds as T";
        auto without = backward(c, f, through, false);
        EXPECT_TRUE(same_bits(without.d_sum, out.d_sum)) << "d_branch is optional";
      }
    }
  });
}

// ds may overwrite the gradient that came along the residual stream.
TYPED_TEST(RmsNorm, BackwardInPlace) {
  for_each_isa([] {
    Case<TypeParam> c(41, 70, 50);
    const auto f = forward(c, false, false);
    auto expected = backward(c, f, true, true);
    std::vector<float> d_sum = c.d_sum_in, d_weight(50);
    AddRmsNormBackward<TypeParam> a;
    a.rows = c.rows;
    a.dim = c.dim;
    a.y = f.y.data();
    a.weight = c.weight.data();
    a.rstd = f.rstd.data();
    a.d_y = c.d_y.data();
    a.d_sum_in = d_sum.data();
    a.d_sum = d_sum.data();
    a.d_weight = d_weight.data();
    add_rms_norm_backward(a);
    EXPECT_TRUE(same_bits(d_sum, expected.d_sum));
    EXPECT_TRUE(same_bits(d_weight, expected.d_weight));
  });
}

TYPED_TEST(RmsNorm, ThreadsDoNotChangeABit) {
  for_each_isa([] {
    for (auto [rows, dim] : shapes()) {
      Case<TypeParam> c(42, rows, dim);
      const auto f = forward(c, false, false);
      expect_same_for_any_thread_count([&] { return forward(c, true, true); });
      expect_same_for_any_thread_count([&] { return backward(c, f, true, true); });
    }
  });
}

TYPED_TEST(RmsNorm, NoRowsGiveAWeightGradientOfZero) {
  for_each_isa([] {
    Case<TypeParam> c(43, 0, 10);
    for (float x : backward(c, forward(c, false, false), true, true).d_weight) EXPECT_EQ(x, 0.0f);
  });
}

// A weight of 0 lets nothing through that counts, and its own gradient is what it would be if it were not 0.
TYPED_TEST(RmsNorm, AWeightOfZeroStillLearns) {
  for_each_isa([] {
    Case<TypeParam> c(45, 40, 24);
    c.weight[3] = 1;
    const auto usual = forward(c, false, false);
    const auto expected = backward(c, usual, false, false);
    c.weight[3] = 0;
    const auto closed = forward(c, false, false);
    for (int64_t row = 0; row < c.rows; ++row)
      EXPECT_LT(std::abs(to_doubles(closed.y)[static_cast<std::size_t>(row * c.dim + 3)]), 1e-16);
    EXPECT_NEAR(backward(c, closed, false, false).d_weight[3], expected.d_weight[3],
                1e-5 * std::abs(expected.d_weight[3]));
  });
}

// The reference itself: its gradients against central differences of its forward pass, all in float64.
TEST(RmsNormReference, GradientsAreThoseOfTheForwardPass) {
  Rng rng(44);
  constexpr int64_t rows = 3, dim = 5;
  auto x = random_normal(rng, rows * dim), weight = random_normal(rng, dim);
  auto d_y = random_normal(rng, rows * dim), through = random_normal(rng, rows * dim);
  auto objective = [&] {
    auto out = ref::add_rms_norm_forward(x, {}, weight, eps);
    double sum = 0;
    for (std::size_t i = 0; i < x.size(); ++i) sum += out.y[i] * d_y[i] + out.sum[i] * through[i];
    return sum;
  };
  const auto f = ref::add_rms_norm_forward(x, {}, weight, eps);
  auto gradients = ref::add_rms_norm_backward(f.y, weight, f.rstd, d_y, through);
  auto check = [&](std::vector<double>& values, const std::vector<double>& gradient) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      double kept = values[i], step = 1e-5;
      values[i] = kept + step;
      double above = objective();
      values[i] = kept - step;
      double below = objective();
      values[i] = kept;
      EXPECT_NEAR(gradient[i], (above - below) / (2 * step), 1e-7);
    }
  };
  check(x, gradients.d_sum);
  check(weight, gradients.d_weight);
}

}  // namespace rattan::kernels::rms_norm_test_file
