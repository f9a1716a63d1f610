#include "rattan/kernels/matrix_product.h"

#include "tests/kernels/kernel_test_util.h"

namespace rattan::kernels::matrix_product_test_file {

// A matrix [rows, columns] that lies in memory as it is or transposed, with gaps between its rows.
class Matrix {
 public:
  Matrix(Rng& rng, int64_t rows, int64_t columns, bool transposed)
      : transposed_(transposed),
        data_(Rows<float>::normal(rng, transposed ? columns : rows, transposed ? rows : columns, 3)) {}
  double at(int64_t r, int64_t c) const { return transposed_ ? data_.at(c, r) : data_.at(r, c); }
  MatrixRef<const float> ref() const {
    if (transposed_) return {data_.data(), 1, data_.stride()};
    return {data_.data(), data_.stride(), 1};
  }

 private:
  bool transposed_;
  Rows<float> data_;
};

Rows<float> product(const MatrixRef<const float>& a, const MatrixRef<const float>& b, int64_t m, int64_t n, int64_t k) {
  Rows<float> c(m, n, 5);
  MatrixProduct p;
  p.m = m, p.n = n, p.k = k, p.a = a, p.b = b, p.c = c.ref();
  matrix_product(p);
  return c;
}

// The sizes stand around the blocks of every instruction set: rows of a task, columns of a panel, depths of a block
// and of what is packed at a time.
TEST(MatrixProduct, MatchesFloat64) {
  uint64_t seed = 0;
  for_each_isa([&] {
    for (auto [m, n, k] :
         {std::tuple{1, 1, 1}, {97, 65, 129}, {5, 600, 33}, {200, 17, 1100}, {64, 128, 0}, {3, 1200, 1030}}) {
      for (int layout = 0; layout < 4; ++layout) {
        SCOPED_TRACE(testing::Message() << "seed " << seed << ": " << m << " x " << k << " x " << n << ", layout "
                                        << layout);
        Rng rng(seed++);
        const Matrix a(rng, m, k, layout & 1), b(rng, k, n, layout & 2);
        const Rows<float> c = product(a.ref(), b.ref(), m, n, k);
        EXPECT_TRUE(c.padding_untouched());
        // Every row where there are few, else a sample that reaches the last one.
        for (int64_t r = m - 1; r >= 0; r -= 7) {
          for (int64_t o = 0; o < n; ++o) {
            double expected = 0, size = 0;
            for (int64_t i = 0; i < k; ++i) {
              expected += a.at(r, i) * b.at(i, o);
              size += std::abs(a.at(r, i) * b.at(i, o));
            }
            // The worst case of fp32 sums grows with their length; a hundred roundings are far above what is met.
            ASSERT_NEAR(c.at(r, o), expected, 100 * 6e-8 * size) << r << ", " << o;
          }
        }
      }
    }
  });
}

// Two panels of what is packed at a time, in columns and in depth.
TEST(MatrixProduct, WideAndDeep) {
  Rng rng(5);
  const int64_t m = 7, n = 1500, k = 2100;
  const Matrix a(rng, m, k, true), b(rng, k, n, false);
  const Rows<float> c = product(a.ref(), b.ref(), m, n, k);
  for (int64_t o = 0; o < n; ++o) {
    double expected = 0, size = 0;
    for (int64_t i = 0; i < k; ++i) {
      expected += a.at(m - 1, i) * b.at(i, o);
      size += std::abs(a.at(m - 1, i) * b.at(i, o));
    }
    ASSERT_NEAR(c.at(m - 1, o), expected, 100 * 6e-8 * size) << o;
  }
}

TEST(MatrixProduct, ARowDoesNotDependOnItsNeighbors) {
  for_each_isa([] {
    Rng rng(1);
    const int64_t n = 70, k = 300;
    const Matrix a(rng, 120, k, false), b(rng, k, n, true);
    const Rows<float> all = product(a.ref(), b.ref(), 120, n, k);
    for (int64_t rows : {1, 2, 5, 96, 101}) {
      MatrixRef<const float> last = a.ref();
      last.data += (120 - rows) * last.row;
      const Rows<float> some = product(last, b.ref(), rows, n, k);
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t o = 0; o < n; ++o) ASSERT_EQ(some.at(r, o), all.at(120 - rows + r, o)) << rows << " rows, " << r;
    }
  });
}

TEST(MatrixProduct, TheNumberOfThreadsDoesNotMatter) {
  Rng rng(2);
  const Matrix a(rng, 300, 1500, true), b(rng, 1500, 700, false);
  expect_same_for_any_thread_count([&] { return product(a.ref(), b.ref(), 300, 700, 1500).values(); });
}

}  // namespace rattan::kernels::matrix_product_test_file
