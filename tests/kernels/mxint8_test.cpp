// Caches in 8 bits: the format, and decoding over it against float64 on the numbers that the 8 bits stand for.
#include "rattan/kernels/mxint8.h"

#include "rattan/kernels/attention.h"
#include "rattan/kernels/ref/attention_ref.h"
#include "rattan/kernels/ref/rat_ref.h"
#include "rattan/kernels/rope.h"
#include "tests/kernels/mxint8_test_util.h"

namespace rattan::kernels::mxint8_test_file {

template <class T>
class Mxint8 : public ::testing::Test {};
using Types = ::testing::Types<float, bf16>;
TYPED_TEST_SUITE(Mxint8, Types);

// Stores all rows of x in order.
template <class T>
Cache stored(const Rows<T>& x, int64_t rows, int64_t heads, int64_t dim) {
  Cache cache(rows, heads, dim);
  std::vector<int64_t> to(static_cast<std::size_t>(rows));
  for (int64_t i = 0; i < rows; ++i) to[static_cast<std::size_t>(i)] = i;
  Mxint8Store<T> a;
  a.rows = rows, a.heads = heads, a.dim = dim, a.to = to.data(), a.x = x.heads_view(dim), a.y = cache.ref();
  mxint8_store(a);
  return cache;
}

// NaN is equal to NaN: what was never written.
bool same_numbers(const std::vector<double>& a, const std::vector<double>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](double x, double y) { return x == y || (std::isnan(x) && std::isnan(y)); });
}

template <class T>
Rows<T> rounded(Rows<T> x, int64_t rows, int64_t heads, int64_t dim) {
  Mxint8Round<T> a;
  a.rows = rows, a.heads = heads, a.dim = dim, a.x = x.heads(dim);
  mxint8_round(a);
  return x;
}

TYPED_TEST(Mxint8, NumbersAreWithinHalfAStepOfTheirBlock) {
  using T = TypeParam;
  for_each_isa([] {
    for (int64_t dim : {1, 8, 31, 32, 33, 64, 128, 200}) {
      SCOPED_TRACE(::testing::Message() << "seed 7, dim " << dim);
      Rng rng(7);
      const int64_t rows = 9, heads = 3;
      Rows<T> x = Rows<T>::normal(rng, rows, heads * dim, 5);
      for (int64_t r = 0; r < rows; ++r)  // blocks of very different sizes
        for (int64_t i = 0; i < heads * dim; ++i)
          x.at(r, i) = from_double<T>(to_double(x.at(r, i)) * std::exp2(4 * static_cast<double>(r) - 16));
      const Cache cache = stored(x, rows, heads, dim);
      Cache expected(rows, heads, dim);
      for (int64_t r = 0; r < rows; ++r) expected.encode(r, x.values().data() + r * heads * dim);
      EXPECT_TRUE(cache == expected);
      const Rows<T> again = rounded(x, rows, heads, dim);
      EXPECT_TRUE(again.padding_untouched());
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t h = 0; h < heads; ++h) {
          for (int64_t c = 0; c < dim; ++c) {
            double most = 0;
            for (int64_t d = c / 32 * 32; d < std::min(dim, c / 32 * 32 + 32); ++d)
              most = std::max(most, std::abs(to_double(x.at(r, h * dim + d))));
            const double step = std::exp2(std::floor(std::log2(most)) - 6), value = to_double(x.at(r, h * dim + c));
            const double held = cache.value(r, h, c);
            // A code of 127 stands for up to 128 steps.
            ASSERT_LE(std::abs(held - value), std::abs(value) > 127 * step ? step : step / 2);
            ASSERT_EQ(to_double(again.at(r, h * dim + c)), held) << "rounding gives what the cache holds, exactly";
          }
        }
      }
      EXPECT_TRUE(rounded(again, rows, heads, dim) == again) << "rounding twice is rounding once";
    }
  });
}

TYPED_TEST(Mxint8, RowsGoWhereTheyAreToldAndComeBack) {
  using T = TypeParam;
  for_each_isa([] {
    Rng rng(11);
    const int64_t heads = 2, dim = 40;
    const Rows<T> x = rounded(Rows<T>::normal(rng, 5, heads * dim, 3), 5, heads, dim);
    Cache cache(8, heads, dim);
    const Cache before = cache;
    const std::vector<int64_t> from = {4, 0, 2}, to = {1, 7, 0}, back = {7, 1, 1, 0};
    Mxint8Store<T> s;
    s.rows = 3, s.heads = heads, s.dim = dim, s.from = from.data(), s.to = to.data();
    s.x = x.heads_view(dim), s.y = cache.ref();
    mxint8_store(s);
    for (int64_t row : {2, 3, 4, 5, 6}) EXPECT_TRUE(cache.same_row(before, row)) << "row " << row << " is no place";
    Rows<T> y(4, heads * dim, 2);
    Mxint8Load<T> l;
    l.rows = 4, l.heads = heads, l.dim = dim, l.from = back.data(), l.x = read_only(cache.ref()), l.y = y.heads(dim);
    mxint8_load(l);
    for (int64_t i = 0; i < heads * dim; ++i) {
      EXPECT_EQ(to_double(y.at(0, i)), to_double(x.at(0, i)));
      EXPECT_EQ(to_double(y.at(1, i)), to_double(x.at(4, i)));
      EXPECT_EQ(to_double(y.at(2, i)), to_double(x.at(4, i)));
      EXPECT_EQ(to_double(y.at(3, i)), to_double(x.at(2, i)));
    }
    EXPECT_TRUE(y.padding_untouched());
  });
}

TEST(Mxint8, EdgesOfTheFormat) {
  for_each_isa([] {
    auto held = [](std::vector<float> x) {
      Rows<float> rows(1, static_cast<int64_t>(x.size()));
      std::copy(x.begin(), x.end(), rows.data());
      return rounded(rows, 1, 1, static_cast<int64_t>(x.size())).values();
    };
    EXPECT_EQ(held({0, -0.0f, 0}), (std::vector<double>{0, 0, 0}));
    EXPECT_EQ(held({0x1p-121f, 0x1p-140f}), (std::vector<double>{0, 0})) << "blocks too small are 0";
    EXPECT_EQ(held({0x1p-120f, 0x1p-126f}), (std::vector<double>{0x1p-120, 0x1p-126}));
    EXPECT_EQ(held({1, 0x1p-7f, 0x3p-7f, -0x3p-7f}), (std::vector<double>{1, 0, 0x1p-5, -0x1p-5})) << "ties to even";
    EXPECT_EQ(held({127.9f, -127.9f}), (std::vector<double>{127, -127}));
    EXPECT_EQ(held({0x1p127f, -0x1p121f}), (std::vector<double>{0x1p127, -0x1p121}));
    for (float bad : {NAN, INFINITY, -INFINITY}) {
      std::vector<float> x(40, 1.0f);
      x[3] = bad;
      const auto y = held(x);
      for (std::size_t i = 0; i < x.size(); ++i) EXPECT_EQ(std::isnan(y[i]), i < 32) << "its block shows it " << i;
    }
  });
}

TYPED_TEST(Mxint8, AttentionIsTheFormulaOnTheNumbersHeld) {
  using T = TypeParam;
  struct Sizes {
    int64_t queries, keys, heads, kv_heads, dim;
  };
  for (const Sizes& s : {Sizes{1, 2500, 4, 2, 64}, Sizes{5, 300, 6, 3, 33}, Sizes{3, 70, 2, 2, 128},
                         Sizes{4, 0, 2, 1, 16}, Sizes{2, 65, 16, 2, 8}, Sizes{0, 3, 2, 2, 32}}) {
    SCOPED_TRACE(::testing::Message() << "seed 21, " << s.queries << " queries, " << s.keys << " keys, dim " << s.dim);
    Rng rng(21);
    const Rows<T> q = Rows<T>::normal(rng, s.queries, s.heads * s.dim, 3);
    const Cache k = stored(Rows<float>::normal(rng, s.keys, s.kv_heads * s.dim), s.keys, s.kv_heads, s.dim);
    const Cache v = stored(Rows<float>::normal(rng, s.keys, s.kv_heads * s.dim), s.keys, s.kv_heads, s.dim);
    std::vector<int32_t> begin, end;
    for (int64_t i = 0; i < s.queries; ++i) {
      const auto a = static_cast<int32_t>(rng.below(static_cast<uint64_t>(s.keys + 1)));
      begin.push_back(s.queries == 1 ? 0 : a);
      end.push_back(i == 2 ? begin.back() : static_cast<int32_t>(s.keys));  // one sees nothing
    }
    const double scale = 1 / std::sqrt(static_cast<double>(s.dim));
    const auto expected = ref::attention_forward(
        {s.queries, s.keys, s.heads, s.kv_heads, s.dim, scale, begin, end, q.values(), k.values(), v.values()});
    for_each_isa([&] {
      expect_same_for_any_thread_count([&] {
        Rows<T> o(s.queries, s.heads * s.dim, 2);
        AttentionCached<T> a;
        a.queries = s.queries, a.keys = s.keys, a.heads = s.heads, a.kv_heads = s.kv_heads, a.dim = s.dim;
        a.scale = static_cast<float>(scale), a.begin = begin.data(), a.end = end.data();
        a.q = q.heads_view(s.dim), a.k = k.view(), a.v = v.view(), a.o = o.heads(s.dim);
        attention_cached(a);
        // fp32: sums over channels and keys; bf16: the output's rounding.
        const double bound = std::is_same_v<T, bf16> ? rounding<bf16>() : 50 * rounding<float>();
        EXPECT_LE(relative_rms_error(o.values(), expected.o), bound);
        EXPECT_TRUE(o.padding_untouched());
        return o;
      });
    });
  }
}

TYPED_TEST(Mxint8, ARatStepIsTheFormulaOnTheNumbersHeld) {
  using T = TypeParam;
  for (const StepCase<T>& c : step_cases<T>()) {
    SCOPED_TRACE(c.label());
    const auto expected = ref::rat_forward(c.reference());
    for_each_isa([&] {
      expect_same_for_any_thread_count([&] {
        StepResult<T> r(c);
        rat_forward(c.call(r));
        c.expect(r, expected);
        return r.out;
      });
    });
  }
}

// A prefill on rows of the computing type with rounded ends is the same as steps on the cache.
TYPED_TEST(Mxint8, RoundedEndsAreWhatACacheWouldHold) {
  using T = TypeParam;
  for (const StepCase<T>& c : step_cases<T>()) {
    SCOPED_TRACE(c.label());
    for_each_isa([&] {
      StepResult<T> step(c), whole(c);
      rat_forward(c.call(step));
      Rows<T> ends_k = c.template rows_of<T>(whole.k), ends_v = c.template rows_of<T>(whole.v);
      RatForward<T> a = c.call(whole);
      a.cached_k = a.cached_v = {}, a.step = false, a.round_ends = true;
      a.ends_k = ends_k.heads(c.shape.dim), a.ends_v = ends_v.heads(c.shape.dim);
      rat_forward(a);
      const double bound = std::is_same_v<T, bf16> ? 3 * rounding<bf16>() : 60 * rounding<float>();
      EXPECT_LE(relative_rms_error(step.out.values(), whole.out.values()), bound);
      EXPECT_TRUE(same_numbers(ends_k.values(), step.k.values()));
      EXPECT_TRUE(same_numbers(ends_v.values(), step.v.values()));
    });
  }
}

}  // namespace rattan::kernels::mxint8_test_file
