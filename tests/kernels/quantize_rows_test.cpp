#include "rattan/kernels/quantize_rows.h"

#include "rattan/kernels/ref/quantize_rows_ref.h"
#include "tests/kernels/kernel_test_util.h"

namespace rattan::kernels::quantize_rows_test_file {

double value_of(e4m3 x) { return to_float(x); }

std::vector<double> all_values() {
  std::vector<double> out;
  for (int code = 0; code < 0x7f; ++code) out.push_back(value_of({static_cast<uint8_t>(code)}));
  return out;
}

TEST(E4m3, ValuesAreThoseOfTheFormat) {
  const auto values = all_values();
  EXPECT_EQ(values[0], 0);
  EXPECT_EQ(values[1], 0x1p-9);
  EXPECT_EQ(values[8], 0x1p-6);
  EXPECT_EQ(values[0x38], 1);
  EXPECT_EQ(values[0x7e], 448);
  EXPECT_TRUE(std::is_sorted(values.begin(), values.end()));
  for (int code = 0; code < 256; ++code) {
    const double x = value_of({static_cast<uint8_t>(code)});
    if ((code & 0x7f) == 0x7f) {
      EXPECT_TRUE(std::isnan(x));
      continue;
    }
    EXPECT_EQ(std::signbit(x), code >= 0x80);
    EXPECT_EQ(std::abs(x), values[static_cast<std::size_t>(code & 0x7f)]);
    EXPECT_EQ(to_e4m3(static_cast<float>(x)).bits, code) << "a value of the format stays what it is";
  }
}

TEST(E4m3, RoundsToTheNearestAndTiesToEven) {
  const auto values = all_values();
  for (std::size_t code = 0; code + 1 < values.size(); ++code) {
    const auto middle = static_cast<float>((values[code] + values[code + 1]) / 2);  // exact in fp32
    const auto even = static_cast<int>(code % 2 == 0 ? code : code + 1);
    EXPECT_EQ(to_e4m3(middle).bits, even) << middle;
    EXPECT_EQ(to_e4m3(std::nextafter(middle, 0.0f)).bits, code) << middle;
    EXPECT_EQ(to_e4m3(std::nextafter(middle, 1000.0f)).bits, code + 1) << middle;
    EXPECT_EQ(to_e4m3(-middle).bits, even | 0x80) << middle;
    EXPECT_EQ(ref::nearest_e4m3(middle), values[static_cast<std::size_t>(even)]) << "the reference";
  }
  for (float large : {449.0f, 464.0f, 480.0f, 1e30f, INFINITY}) {
    EXPECT_EQ(to_e4m3(large).bits, 0x7e) << large;
    EXPECT_EQ(to_e4m3(-large).bits, 0xfe) << large;
  }
  EXPECT_EQ(to_e4m3(NAN).bits, 0x7f);
  EXPECT_EQ(to_e4m3(-NAN).bits, 0x7f);
  EXPECT_EQ(to_e4m3(1e-40f).bits, 0);
}

struct Quantized {
  std::vector<e4m3> y;  // [rows, dim + padding]
  std::vector<float> scale;
  bool operator==(const Quantized& other) const { return same_bits(y, other.y) && same_bits(scale, other.scale); }
  std::vector<double> values(int64_t dim, int64_t padding) const {
    std::vector<double> out;
    for (std::size_t i = 0; i < y.size(); ++i)
      if (static_cast<int64_t>(i) % (dim + padding) < dim) out.push_back(value_of(y[i]));
    return out;
  }
};

constexpr e4m3 untouched = {0x55};

template <class T>
Quantized run(const Rows<T>& x, int64_t rows, int64_t dim, int64_t padding = 0) {
  Quantized out{std::vector<e4m3>(static_cast<std::size_t>(rows * (dim + padding)), untouched),
                std::vector<float>(static_cast<std::size_t>(rows), NAN)};
  QuantizeRows<T> a;
  a.rows = rows, a.dim = dim;
  a.x = x.view(), a.y = {out.y.data(), dim + padding}, a.scale = out.scale.data();
  quantize_rows(a);
  return out;
}

template <class T>
class QuantizeRowsOf : public ::testing::Test {};
using Types = ::testing::Types<float, bf16>;
TYPED_TEST_SUITE(QuantizeRowsOf, Types);

std::vector<std::pair<int64_t, int64_t>> shapes() {
  return {{1, 1}, {3, 7}, {17, 64}, {130, 100}, {40, 33}, {9, 1030}, {2, 20000}};
}

// The kernel rounds the scale and x inverse to fp32 first: where x / scale lies within three such roundings of the
// middle between two values, it may take the other one.
void expect_close(const Quantized& got, const std::vector<double>& x, int64_t rows, int64_t dim, int64_t padding) {
  const ref::QuantizedRows expected = ref::quantize_rows(x, rows, dim);
  const auto values = got.values(dim, padding);
  ASSERT_EQ(values.size(), expected.y.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (values[i] == expected.y[i]) continue;
    const double exact = x[i] / expected.scale[i / static_cast<std::size_t>(dim)];
    EXPECT_NEAR((values[i] + expected.y[i]) / 2, exact, 3 * 0x1p-24 * std::abs(exact)) << "element " << i;
  }
  for (std::size_t r = 0; r < expected.scale.size(); ++r)
    EXPECT_NEAR(got.scale[r] / expected.scale[r], 1, 0x1p-24) << "row " << r;
}

TYPED_TEST(QuantizeRowsOf, IsTheFormulaAtAnyStrideAndScale) {
  for_each_isa([] {
    uint64_t seed = 700;
    for (auto [rows, dim] : shapes()) {
      for (int64_t padding : {0, 5}) {
        for (double size : {1.0, 1e-6, 3e8}) {
          SCOPED_TRACE(::testing::Message() << "seed " << seed << ", " << rows << " x " << dim << ", size " << size);
          Rng rng(seed++);
          const auto x = Rows<TypeParam>::normal(rng, rows, dim, padding, size);
          const Quantized got = run(x, rows, dim, padding);
          expect_close(got, x.values(), rows, dim, padding);
          for (std::size_t i = 0; i < got.y.size(); ++i)
            if (static_cast<int64_t>(i) % (dim + padding) >= dim) {
              ASSERT_EQ(got.y[i].bits, untouched.bits) << "padding was written";
            }
        }
      }
    }
  });
}

// What the format promises: half a step, relative for normal values and absolute below.
TYPED_TEST(QuantizeRowsOf, ComesBackWithinHalfAStep) {
  Rng rng(720);
  constexpr int64_t rows = 20, dim = 500;
  const auto x = Rows<TypeParam>::normal(rng, rows, dim);
  const Quantized got = run(x, rows, dim);
  for (int64_t r = 0; r < rows; ++r) {
    double most = 0;
    for (int64_t i = 0; i < dim; ++i) {
      const double scale = got.scale[static_cast<std::size_t>(r)], exact = to_double(x.at(r, i));
      const double back = value_of(got.y[static_cast<std::size_t>(r * dim + i)]) * scale;
      EXPECT_LE(std::abs(back - exact), 1.0001 * std::max(0x1p-4 * std::abs(exact), 0x1p-10 * scale));
      most = std::max(most, std::abs(value_of(got.y[static_cast<std::size_t>(r * dim + i)])));
    }
    EXPECT_EQ(most, 448) << "the largest element of a row takes the largest value";
  }
}

TYPED_TEST(QuantizeRowsOf, ZerosTinyRowsAndWhatIsNotFinite) {
  using T = TypeParam;
  for_each_isa([] {
    constexpr int64_t rows = 5, dim = 40;
    Rows<T> x(rows, dim);
    for (int64_t i = 0; i < dim; ++i) {
      x.at(0, i) = from_double<T>(i % 2 == 0 ? 0.0 : -0.0);
      x.at(1, i) = from_double<T>(1e-38);
      x.at(2, i) = x.at(3, i) = x.at(4, i) = from_double<T>(i % 5 - 2);
    }
    x.at(2, 7) = from_double<T>(NAN), x.at(3, 9) = from_double<T>(-INFINITY);
    const Quantized got = run(x, rows, dim);
    auto y = [&](int64_t r, int64_t i) { return value_of(got.y[static_cast<std::size_t>(r * dim + i)]); };
    for (int64_t i = 0; i < dim; ++i) {
      EXPECT_EQ(y(0, i), 0);
      EXPECT_EQ(y(1, i), 0) << "far below the least scale";
      EXPECT_EQ(std::isnan(y(2, i)), i == 7) << "a NaN spoils no other element";
      if (i != 7) {
        EXPECT_EQ(y(2, i), y(4, i)) << "nor the scale";
      }
      EXPECT_TRUE(i == 9 ? std::isnan(y(3, i)) : y(3, i) == 0) << "an infinity leaves nothing of its row";
    }
    for (int64_t r : {0, 1, 2, 4}) EXPECT_TRUE(std::isnormal(got.scale[static_cast<std::size_t>(r)])) << "row " << r;
    EXPECT_TRUE(std::isinf(got.scale[3]));
  });
}

TYPED_TEST(QuantizeRowsOf, ThreadsAndInstructionSetsDoNotChangeABit) {
  Rng rng(730);
  for (auto [rows, dim] : shapes()) {
    const auto x = Rows<TypeParam>::normal(rng, rows, dim);
    const Quantized first = run(x, rows, dim);
    for_each_isa([&] { EXPECT_TRUE(run(x, rows, dim) == first) << rows << " x " << dim; });
    expect_same_for_any_thread_count([&] { return run(x, rows, dim); });
  }
}

}  // namespace rattan::kernels::quantize_rows_test_file
