#include "rattan/kernels/rope.h"

#include "rattan/base/error.h"
#include "rattan/kernels/ref/rope_ref.h"
#include "tests/kernels/kernel_test_util.h"

namespace rattan::kernels::rope_test_file {

constexpr double base = 10000;
constexpr int64_t positions = 1000;

struct Table {
  std::vector<float> cos, sin;
  explicit Table(int64_t dim) : cos(positions * dim / 2, NAN), sin(positions * dim / 2, NAN) {
    rope_table(positions, dim, base, cos.data(), sin.data());
  }
};

std::vector<int32_t> random_positions(Rng& rng, int64_t rows) {
  std::vector<int32_t> out;
  for (int64_t i = 0; i < rows; ++i) out.push_back(static_cast<int32_t>(rng.below(positions)));
  return out;
}

template <class T>
Rope<T> arguments(const Table& table, const std::vector<int32_t>& position, int64_t heads, int64_t dim, bool inverse) {
  Rope<T> a;
  a.rows = static_cast<int64_t>(position.size());
  a.heads = heads;
  a.dim = dim;
  a.position = position.data();
  a.cos = table.cos.data();
  a.sin = table.sin.data();
  a.inverse = inverse;
  return a;
}

struct Shape {
  int64_t rows, heads, dim, padding;
};
std::vector<Shape> shapes() { return {{1, 1, 2, 0}, {7, 3, 6, 5}, {33, 2, 64, 0}, {300, 4, 34, 3}, {5, 2, 130, 0}}; }

template <class T>
class RopeKernel : public ::testing::Test {};
using Types = ::testing::Types<float, bf16>;
TYPED_TEST_SUITE(RopeKernel, Types);

// fp32: the table and two products are rounded. bf16: the output is rounded once.
template <class T>
constexpr double output_bound = std::is_same_v<T, bf16> ? rounding<bf16>() : 3 * rounding<float>();

TYPED_TEST(RopeKernel, RotatesBothWaysAsTheFormula) {
  for_each_isa([] {
    uint64_t seed = 300;
    for (auto [rows, heads, dim, padding] : shapes()) {
      SCOPED_TRACE(::testing::Message() << "seed " << seed << ", dim " << dim);
      Rng rng(seed++);
      Table table(dim);
      auto position = random_positions(rng, rows);
      auto x = Rows<TypeParam>::normal(rng, rows, heads * dim, padding);
      for (bool inverse : {false, true}) {
        auto a = arguments<TypeParam>(table, position, heads, dim, inverse);
        Rows<TypeParam> out(rows, heads * dim, padding);
        a.x = x.heads_view(dim);
        a.out = out.heads(dim);
        rope(a);
        auto expected = ref::rope(x.values(), position, heads, dim, base, inverse);
        EXPECT_LE(relative_rms_error(out.values(), expected), output_bound<TypeParam>);
        EXPECT_TRUE(out.padding_untouched());
        Rows<TypeParam> in_place = x;
        a.x = in_place.heads_view(dim);
        a.out = in_place.heads(dim);
        rope(a);
        EXPECT_TRUE(in_place == out) << "out may be x";
      }
    }
  });
}

// Heads may lie apart from each other, as in a projection that holds more than them.
TYPED_TEST(RopeKernel, HeadsMayBeStrided) {
  for_each_isa([] {
    constexpr int64_t rows = 9, heads = 3, dim = 20, apart = 31;
    Rng rng(301);
    Table table(dim);
    auto position = random_positions(rng, rows);
    auto wide = Rows<TypeParam>::normal(rng, rows, heads * apart);
    std::vector<double> dense;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t h = 0; h < heads; ++h) {
        for (int64_t i = 0; i < dim; ++i) dense.push_back(to_double(wide.at(r, h * apart + i)));
      }
    }
    auto a = arguments<TypeParam>(table, position, heads, dim, false);
    Rows<TypeParam> out(rows, heads * dim);
    a.x = {wide.data(), wide.stride(), apart};
    a.out = out.heads(dim);
    rope(a);
    EXPECT_LE(relative_rms_error(out.values(), ref::rope(dense, position, heads, dim, base, false)),
              output_bound<TypeParam>);
  });
}

TYPED_TEST(RopeKernel, ThreadsDoNotChangeABit) {
  for_each_isa([] {
    constexpr int64_t rows = 700, heads = 4, dim = 64;
    Rng rng(302);
    Table table(dim);
    auto position = random_positions(rng, rows);
    auto x = Rows<TypeParam>::normal(rng, rows, heads * dim);
    expect_same_for_any_thread_count([&] {
      auto a = arguments<TypeParam>(table, position, heads, dim, false);
      Rows<TypeParam> out(rows, heads * dim);
      a.x = x.heads_view(dim);
      a.out = out.heads(dim);
      rope(a);
      return out;
    });
  });
}

TYPED_TEST(RopeKernel, SizesMayBeZero) {
  for_each_isa([] {
    Rope<TypeParam> a;
    rope(a);
    std::vector<int32_t> position{0, 1, 2};
    a.rows = 3;
    a.position = position.data();
    rope(a);
  });
}

TEST(RopeTable, HoldsTheAnglesInDoublePrecision) {
  constexpr int64_t dim = 64;
  Table table(dim);
  for (int64_t p : {int64_t{0}, int64_t{1}, positions / 2, positions - 1}) {
    for (int64_t i = 0; i < dim / 2; ++i) {
      double angle = static_cast<double>(p) * std::pow(base, -2.0 * static_cast<double>(i) / dim);
      EXPECT_FLOAT_EQ(table.cos[p * dim / 2 + i], static_cast<float>(std::cos(angle)));
      EXPECT_FLOAT_EQ(table.sin[p * dim / 2 + i], static_cast<float>(std::sin(angle)));
    }
  }
}

TEST(RopeTable, RefusesAnOddDimension) {
  float value = 0;
  EXPECT_THROW(rope_table(1, 3, base, &value, &value), InputError);
}

// Rotating queries and keys alike leaves a product that depends on the distance of their positions alone.
TEST(RopeReference, ProductsDependOnTheDistanceOnly) {
  Rng rng(303);
  constexpr int64_t dim = 16;
  auto q = random_normal(rng, dim), k = random_normal(rng, dim);
  auto product = [&](int32_t at_q, int32_t at_k) {
    auto a = ref::rope(q, {at_q}, 1, dim, base, false), b = ref::rope(k, {at_k}, 1, dim, base, false);
    double sum = 0;
    for (int64_t i = 0; i < dim; ++i) sum += a[i] * b[i];
    return sum;
  };
  EXPECT_NEAR(product(17, 5), product(512, 500), 1e-12);
  EXPECT_GT(std::abs(product(17, 5) - product(18, 5)), 1e-3);
}

}  // namespace rattan::kernels::rope_test_file
