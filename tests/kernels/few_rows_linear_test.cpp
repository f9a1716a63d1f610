#include "rattan/kernels/few_rows_linear.h"

#include "tests/kernels/kernel_test_util.h"

namespace rattan::kernels::few_rows_linear_test_file {

template <class T>
Rows<T> product(const Rows<T>& x, const Rows<T>& w, int64_t rows, int64_t in, int64_t out) {
  Rows<T> y(rows, out, 3);
  FewRowsLinear<T> a;
  a.rows = rows, a.in = in, a.out = out;
  a.x = x.view(), a.w = w.view(), a.y = y.ref();
  few_rows_linear(a);
  return y;
}

// The worst case of fp32 sums grows with their length; a hundred roundings are far above what is met. The result is
// rounded once more to its type.
template <class T>
void expect_float64_product(uint64_t seed, int64_t rows, int64_t in, int64_t out) {
  Rng rng(seed);
  const auto x = Rows<T>::normal(rng, rows, in, 5), w = Rows<T>::normal(rng, out, in, 2);
  const Rows<T> y = product(x, w, rows, in, out);
  EXPECT_TRUE(y.padding_untouched());
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t o = 0; o < out; ++o) {
      double expected = 0, size = 0;
      for (int64_t k = 0; k < in; ++k) {
        const double term = to_double(x.at(r, k)) * to_double(w.at(o, k));
        expected += term, size += std::abs(term);
      }
      const double error = 100 * 6e-8 * size + rounding<T>() * std::abs(expected);
      ASSERT_NEAR(to_double(y.at(r, o)), expected, error + 1e-30) << r << ", " << o;
    }
  }
}

class FewRowsLinearTest : public testing::Test {
 protected:
  ~FewRowsLinearTest() override { use_isa(best_); }
  Isa best_ = active_isa();
};

TEST_F(FewRowsLinearTest, MatchesFloat64) {
  uint64_t seed = 0;
  for (Isa isa : supported_isas()) {
    use_isa(isa);
    for (auto [rows, in, out] :
         {std::tuple{1, 256, 768}, {8, 256, 100}, {7, 37, 5}, {16, 1, 33}, {3, 129, 1}, {2, 16, 17}}) {
      SCOPED_TRACE(testing::Message() << name(isa) << " seed " << seed << ": " << rows << " x " << in << " x " << out);
      expect_float64_product<float>(seed, rows, in, out);
      expect_float64_product<bf16>(seed, rows, in, out);
      ++seed;
    }
  }
}

TEST_F(FewRowsLinearTest, ARowDoesNotDependOnItsNeighbors) {
  for (Isa isa : supported_isas()) {
    SCOPED_TRACE(name(isa));
    use_isa(isa);
    Rng rng(1);
    const int64_t in = 203, out = 70;
    const auto x = Rows<float>::normal(rng, 16, in), w = Rows<float>::normal(rng, out, in);
    const Rows<float> all = product(x, w, 16, in, out);
    for (int64_t rows = 1; rows < 16; ++rows) {
      const Rows<float> some = product(x, w, rows, in, out);
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t o = 0; o < out; ++o) ASSERT_EQ(some.at(r, o), all.at(r, o)) << rows << " rows: " << r << ", " << o;
    }
  }
}

TEST_F(FewRowsLinearTest, TheNumberOfThreadsDoesNotMatter) {
  Rng rng(2);
  const auto x = Rows<float>::normal(rng, 5, 300), w = Rows<float>::normal(rng, 1000, 300);
  set_threads(1);
  const auto one = product(x, w, 5, 300, 1000).values();
  set_threads(4);
  const auto four = product(x, w, 5, 300, 1000).values();
  set_threads(0);
  EXPECT_EQ(one, four);
}

}  // namespace rattan::kernels::few_rows_linear_test_file
