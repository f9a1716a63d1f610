#include "rattan/kernels/cross_entropy.h"

#include "rattan/kernels/ref/cross_entropy_ref.h"
#include "tests/kernels/kernel_test_util.h"

namespace rattan::kernels::cross_entropy_test_file {

template <class T>
struct Case {
  int64_t rows, vocabulary;
  Rows<T> logits;
  std::vector<int64_t> target;
  std::vector<float> weight;

  Case(uint64_t seed, int64_t rows, int64_t vocabulary, int64_t padding) : Case(Rng(seed), rows, vocabulary, padding) {}

 private:
  Case(Rng rng, int64_t rows, int64_t vocabulary, int64_t padding)
      : rows(rows), vocabulary(vocabulary), logits(Rows<T>::normal(rng, rows, vocabulary, padding, 3)) {
    for (int64_t i = 0; i < rows; ++i) {
      target.push_back(i % 5 == 3 ? -100 : static_cast<int64_t>(rng.below(static_cast<uint64_t>(vocabulary))));
      weight.push_back(static_cast<float>(2 * rng.uniform()));
    }
  }
};

template <class T>
struct Output {
  Rows<T> logits;
  std::vector<float> loss;
  bool operator==(const Output& other) const { return logits == other.logits && same_bits(loss, other.loss); }
};

template <class T>
Output<T> run(const Case<T>& c, bool gradient, bool weighted) {
  Output<T> out{c.logits, std::vector<float>(static_cast<std::size_t>(c.rows), NAN)};
  CrossEntropy<T> a;
  a.rows = c.rows;
  a.vocabulary = c.vocabulary;
  a.logits = out.logits.ref();
  a.target = c.target.data();
  a.weight = weighted ? c.weight.data() : nullptr;
  a.gradient = gradient;
  a.loss = out.loss.data();
  cross_entropy(a);
  return out;
}

struct Shape {
  int64_t rows, vocabulary, padding;
};
// Vocabularies below and above the piece that a row is worked through in.
std::vector<Shape> shapes() { return {{1, 1, 0}, {9, 5, 2}, {70, 257, 0}, {12, 2048, 3}, {7, 5003, 1}}; }

template <class T>
class CrossEntropyKernel : public ::testing::Test {};
using Types = ::testing::Types<float, bf16>;
TYPED_TEST_SUITE(CrossEntropyKernel, Types);

// fp32: an exponential and a sum over the row, each product rounded once more. bf16: the gradient is rounded once.
template <class T>
constexpr double gradient_bound = std::is_same_v<T, bf16> ? rounding<bf16>() : 8 * rounding<float>();
constexpr double loss_bound = 8 * 0x1p-24;  // the loss is fp32 whatever T is

TYPED_TEST(CrossEntropyKernel, LossAndGradientAreTheFormula) {
  for_each_isa([] {
    uint64_t seed = 800;
    for (auto [rows, vocabulary, padding] : shapes()) {
      for (bool weighted : {false, true}) {
        SCOPED_TRACE(::testing::Message() << "seed " << seed << ", " << rows << " x " << vocabulary);
        Case<TypeParam> c(seed++, rows, vocabulary, padding);
        auto weight = weighted ? to_doubles(c.weight) : std::vector<double>{};
        auto expected = ref::cross_entropy(c.logits.values(), c.target, weight, vocabulary);
        auto out = run(c, true, weighted);
        EXPECT_LE(relative_rms_error(to_doubles(out.loss), expected.loss), loss_bound);
        EXPECT_LE(relative_rms_error(out.logits.values(), expected.gradient), gradient_bound<TypeParam>);
        EXPECT_TRUE(out.logits.padding_untouched());
        auto loss_only = run(c, false, weighted);
        EXPECT_TRUE(same_bits(loss_only.loss, out.loss));
        EXPECT_TRUE(loss_only.logits == c.logits) << "without `gradient` the logits are only read";
      }
    }
  });
}

TYPED_TEST(CrossEntropyKernel, IgnoredRowsGiveNothing) {
  for_each_isa([] {
    Case<TypeParam> c(801, 10, 33, 0);
    for (int64_t j = 0; j < 33; ++j) c.logits.at(3, j) = from_double<TypeParam>(NAN);
    ASSERT_LT(c.target[3], 0);
    auto out = run(c, true, true);
    EXPECT_EQ(out.loss[3], 0.0f);
    for (int64_t j = 0; j < 33; ++j) EXPECT_EQ(to_double(out.logits.at(3, j)), 0);
  });
}

// Logits may be large, and -inf where a token is forbidden, for a whole first piece of the row as well.
TYPED_TEST(CrossEntropyKernel, LargeAndForbiddenLogits) {
  for_each_isa([] {
    constexpr int64_t vocabulary = 5000;
    Case<TypeParam> c(802, 1, vocabulary, 0);
    for (int64_t j = 0; j < 4000; ++j) c.logits.at(0, j) = from_double<TypeParam>(-INFINITY);
    for (int64_t j = 4000; j < vocabulary; ++j) c.logits.at(0, j) = from_double<TypeParam>(j % 2 ? -8192 : 8192);
    c.target[0] = 4000;
    auto out = run(c, true, false);
    EXPECT_NEAR(out.loss[0], std::log(500.0), 1e-6);
    std::vector<double> gradient = out.logits.values();
    for (int64_t j = 0; j < vocabulary; ++j) {
      double expected = j < 4000 || j % 2 ? 0 : j == 4000 ? 1.0 / 500 - 1 : 1.0 / 500;
      ASSERT_NEAR(gradient[static_cast<std::size_t>(j)], expected, std::abs(expected) * 2 * rounding<TypeParam>())
          << "element " << j;
    }
  });
}

// A broken model must be seen in its loss.
TYPED_TEST(CrossEntropyKernel, NaNReachesTheLoss) {
  for_each_isa([] {
    for (int64_t at : {0, 7, 15, 16, 40, 2999}) {
      Case<TypeParam> c(803, 1, 3000, 0);
      c.target[0] = 1;
      c.logits.at(0, at) = from_double<TypeParam>(NAN);
      EXPECT_TRUE(std::isnan(run(c, true, false).loss[0])) << "NaN at " << at;
    }
  });
}

TYPED_TEST(CrossEntropyKernel, ThreadsDoNotChangeABit) {
  for_each_isa([] {
    Case<TypeParam> c(804, 200, 1000, 0);
    expect_same_for_any_thread_count([&] { return run(c, true, true); });
  });
}

TYPED_TEST(CrossEntropyKernel, NoRows) {
  for_each_isa([] { run(Case<TypeParam>(805, 0, 10, 0), true, true); });
}

// The reference itself: its gradient against central differences of its loss, in float64.
TEST(CrossEntropyReference, GradientIsThatOfTheLoss) {
  Rng rng(806);
  constexpr int64_t vocabulary = 6;
  auto logits = random_normal(rng, 3 * vocabulary);
  std::vector<int64_t> target{2, -1, 5};
  std::vector<double> weight{0.5, 1, 2};
  auto out = ref::cross_entropy(logits, target, weight, vocabulary);
  for (std::size_t i = 0; i < logits.size(); ++i) {
    auto total = [&](double step) {
      auto moved = logits;
      moved[i] += step;
      double sum = 0;
      for (double loss : ref::cross_entropy(moved, target, weight, vocabulary).loss) sum += loss;
      return sum;
    };
    EXPECT_NEAR(out.gradient[i], (total(1e-5) - total(-1e-5)) / 2e-5, 1e-8);
  }
}

}  // namespace rattan::kernels::cross_entropy_test_file
