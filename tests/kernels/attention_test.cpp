#include "rattan/kernels/attention.h"

#include "rattan/kernels/ref/attention_ref.h"
#include "tests/kernels/kernel_test_util.h"

namespace rattan::kernels::attention_test_file {

struct Intervals {
  const char* name;
  int64_t queries, keys;
  std::vector<int32_t> begin, end;
};

Intervals causal(int64_t queries, int64_t keys) {
  Intervals out{"causal", queries, keys, {}, {}};
  for (int64_t i = 0; i < queries; ++i) {
    out.begin.push_back(0);
    out.end.push_back(static_cast<int32_t>(keys - queries + i + 1));
  }
  return out;
}

Intervals window(int64_t rows, int64_t size) {
  Intervals out{"window", rows, rows, {}, {}};
  for (int64_t i = 0; i < rows; ++i) {
    out.begin.push_back(static_cast<int32_t>(std::max<int64_t>(0, i - size + 1)));
    out.end.push_back(static_cast<int32_t>(i + 1));
  }
  return out;
}

// Documents one after the other, with rows that see nothing (padding) between them.
Intervals packed(const std::vector<int32_t>& lengths, int32_t padding) {
  Intervals out{"packed", 0, 0, {}, {}};
  int32_t at = 0;
  for (int32_t length : lengths) {
    for (int32_t i = 0; i < length; ++i) out.begin.push_back(at), out.end.push_back(at + i + 1);
    for (int32_t i = 0; i < padding; ++i) out.begin.push_back(at), out.end.push_back(at);
    at += length + padding;
  }
  out.queries = out.keys = at;
  return out;
}

Intervals arbitrary(Rng& rng, int64_t queries, int64_t keys) {
  Intervals out{"arbitrary", queries, keys, {}, {}};
  for (int64_t i = 0; i < queries; ++i) {
    auto a = static_cast<int32_t>(rng.below(static_cast<uint64_t>(keys + 1)));
    auto b = static_cast<int32_t>(rng.below(static_cast<uint64_t>(keys + 1)));
    out.begin.push_back(std::min(a, b));
    out.end.push_back(std::max(a, b));
  }
  return out;
}

template <class T>
struct Case {
  Intervals at;
  int64_t heads, kv_heads, dim;
  float scale;
  Rows<T> q, k, v, d_o;

  Case(Rng& rng, Intervals intervals, int64_t heads, int64_t kv_heads, int64_t dim)
      : at(std::move(intervals)),
        heads(heads),
        kv_heads(kv_heads),
        dim(dim),
        scale(1 / std::sqrt(static_cast<float>(dim))),
        q(Rows<T>::normal(rng, at.queries, heads * dim, 5, 1.5)),
        k(Rows<T>::normal(rng, at.keys, kv_heads * dim, 3)),
        v(Rows<T>::normal(rng, at.keys, kv_heads * dim, 1)),
        d_o(Rows<T>::normal(rng, at.queries, heads * dim, 2)) {}

  ref::Attention problem() const {
    return {at.queries, at.keys, heads, kv_heads, dim, scale, at.begin, at.end, q.values(), k.values(), v.values()};
  }
};

template <class T>
struct Forward {
  Rows<T> o;
  std::vector<float> lse;
  bool operator==(const Forward& other) const { return o == other.o && same_bits(lse, other.lse); }
};

template <class T>
Forward<T> forward(const Case<T>& c) {
  Forward<T> out{Rows<T>(c.at.queries, c.heads * c.dim, 3),
                 std::vector<float>(static_cast<std::size_t>(c.at.queries * c.heads), NAN)};
  AttentionForward<T> a;
  a.queries = c.at.queries, a.keys = c.at.keys, a.heads = c.heads, a.kv_heads = c.kv_heads, a.dim = c.dim;
  a.scale = c.scale;
  a.begin = c.at.begin.data(), a.end = c.at.end.data();
  a.q = c.q.heads_view(c.dim), a.k = c.k.heads_view(c.dim), a.v = c.v.heads_view(c.dim);
  a.o = out.o.heads(c.dim);
  a.lse = out.lse.data();
  attention_forward(a);
  return out;
}

template <class T>
struct Backward {
  Rows<T> dq, dk, dv;
  bool operator==(const Backward& other) const { return dq == other.dq && dk == other.dk && dv == other.dv; }
};

template <class T>
Backward<T> backward(const Case<T>& c, const Forward<T>& saved, const std::vector<float>& d_lse = {}) {
  Backward<T> out{Rows<T>(c.at.queries, c.heads * c.dim, 3), Rows<T>(c.at.keys, c.kv_heads * c.dim, 3),
                  Rows<T>(c.at.keys, c.kv_heads * c.dim, 3)};
  AttentionBackward<T> a;
  a.queries = c.at.queries, a.keys = c.at.keys, a.heads = c.heads, a.kv_heads = c.kv_heads, a.dim = c.dim;
  a.scale = c.scale;
  a.begin = c.at.begin.data(), a.end = c.at.end.data();
  a.q = c.q.heads_view(c.dim), a.k = c.k.heads_view(c.dim), a.v = c.v.heads_view(c.dim);
  a.o = saved.o.heads_view(c.dim), a.d_o = c.d_o.heads_view(c.dim);
  a.lse = saved.lse.data();
  a.d_lse = d_lse.empty() ? nullptr : d_lse.data();
  a.dq = out.dq.heads(c.dim), a.dk = out.dk.heads(c.dim), a.dv = out.dv.heads(c.dim);
  attention_backward(a);
  return out;
}

// Sums of a few hundred terms in fp32, and an exponential of 2 ulp with an argument of about 10: some 30
// roundings. In bf16 the outputs, the probabilities and the score gradients are rounded once each.
template <class T>
double tolerance() {
  return std::is_same_v<T, bf16> ? 3 * rounding<T>() : 60 * rounding<T>();
}

// Relative to the size of a gradient, or to 0.1 where the gradients cancel to nothing (a single key).
double gradient_error(const std::vector<double>& actual, const std::vector<double>& expected) {
  if (rms(expected) > 0.1) return relative_rms_error(actual, expected);
  std::vector<double> shifted_actual = actual, shifted_expected = expected;
  for (double& x : shifted_actual) x += 0.1;
  for (double& x : shifted_expected) x += 0.1;
  return relative_rms_error(shifted_actual, shifted_expected);
}

std::vector<double> finite(std::vector<double> x) {
  for (double& v : x) v = std::isinf(v) ? -1e3 : v;
  return x;
}

template <class T>
void check(const Case<T>& c) {
  SCOPED_TRACE(testing::Message() << c.at.name << " queries " << c.at.queries << " keys " << c.at.keys << " heads "
                                  << c.heads << "/" << c.kv_heads << " dim " << c.dim);
  ref::Attention problem = c.problem();
  ref::AttentionOutput expected = ref::attention_forward(problem);
  ref::AttentionGradients gradients = ref::attention_backward(problem, expected, c.d_o.values());
  for_each_isa([&] {
    Forward<T> out = forward(c);
    EXPECT_LT(relative_rms_error(out.o.values(), expected.o), tolerance<T>());
    EXPECT_LT(relative_max_error(out.o.values(), expected.o), 20 * tolerance<T>());
    EXPECT_TRUE(out.o.padding_untouched());
    for (std::size_t i = 0; i < out.lse.size(); ++i) {
      EXPECT_EQ(std::isinf(out.lse[i]), std::isinf(expected.lse[i])) << "row " << i;
    }
    EXPECT_LT(relative_rms_error(finite(to_doubles(out.lse)), finite(expected.lse)), 1e-5);
    Backward<T> back = backward(c, out);
    EXPECT_LT(gradient_error(back.dq.values(), gradients.dq), 2 * tolerance<T>());
    EXPECT_LT(gradient_error(back.dk.values(), gradients.dk), 2 * tolerance<T>());
    EXPECT_LT(gradient_error(back.dv.values(), gradients.dv), 2 * tolerance<T>());
    EXPECT_TRUE(back.dq.padding_untouched() && back.dk.padding_untouched() && back.dv.padding_untouched());
  });
}

template <class T>
class AttentionTest : public testing::Test {};
using Types = testing::Types<float, bf16>;
TYPED_TEST_SUITE(AttentionTest, Types);

TYPED_TEST(AttentionTest, EqualsTheReferenceForEveryShape) {
  Rng rng(11);
  for (int64_t dim : {1, 8, 20, 64, 72, 128}) check(Case<TypeParam>(rng, causal(70, 70), 2, 1, dim));
  for (int64_t rows : {1, 2, 15, 63, 64, 65, 129, 200}) {
    check(Case<TypeParam>(rng, causal(rows, rows), 4, 2, 16));
    check(Case<TypeParam>(rng, causal(rows, rows + 37), 2, 2, 24));
    check(Case<TypeParam>(rng, window(rows, 9), 3, 1, 16));
  }
  check(Case<TypeParam>(rng, window(300, 70), 2, 1, 32));
  check(Case<TypeParam>(rng, packed({1, 3, 64, 17, 1, 100, 2}, 0), 2, 2, 16));
  check(Case<TypeParam>(rng, packed({5, 1, 70, 31}, 3), 4, 2, 17));
  check(Case<TypeParam>(rng, packed({}, 0), 2, 1, 16));
  for (int repeat = 0; repeat < 4; ++repeat) check(Case<TypeParam>(rng, arbitrary(rng, 90, 150), 2, 1, 12));
}

TYPED_TEST(AttentionTest, OneQueryOnALongCacheIsSplitAndMerged) {
  Rng rng(12);
  for (int64_t keys : {1, 31, 1024, 1025, 5000}) {
    check(Case<TypeParam>(rng, causal(1, keys), 4, 2, 32));
    check(Case<TypeParam>(rng, causal(1, keys), 2, 2, 20));
  }
  Intervals batch{"decoding batch", 3, 4000, {0, 1500, 2600}, {1500, 2600, 4000}};
  check(Case<TypeParam>(rng, batch, 4, 4, 16));
}

TYPED_TEST(AttentionTest, IsTheSameBitForBitForAnyNumberOfThreadsAndFromRunToRun) {
  Rng rng(13);
  for (const Intervals& at : {causal(200, 200), window(150, 20), packed({3, 90, 1, 40}, 2), causal(1, 3000)}) {
    Case<TypeParam> c(rng, at, 4, 2, 24);
    for_each_isa([&] {
      expect_same_for_any_thread_count([&] { return forward(c); });
      Forward<TypeParam> saved = forward(c);
      EXPECT_TRUE(saved == forward(c));
      expect_same_for_any_thread_count([&] { return backward(c, saved); });
    });
  }
}

// Scores far beyond the range of exp, and rows whose first blocks hold only hidden keys.
TYPED_TEST(AttentionTest, LargeScoresStayFinite) {
  Rng rng(14);
  Case<TypeParam> c(rng, causal(130, 130), 1, 1, 16);
  c.scale = 100;
  ref::AttentionOutput expected = ref::attention_forward(c.problem());
  for_each_isa([&] {
    // The scores are near 1,000, where one fp32 rounding moves a probability by 1e-4.
    EXPECT_LT(relative_rms_error(forward(c).o.values(), expected.o), 1e-3 + tolerance<TypeParam>());
  });
}

TYPED_TEST(AttentionTest, KeysOutsideTheIntervalsAreNeverRead) {
  Rng rng(15);
  Case<TypeParam> c(rng, window(200, 30), 2, 1, 16);
  for (int64_t i = 0; i < c.at.queries; ++i) {
    c.at.begin[static_cast<std::size_t>(i)] = std::max(50, c.at.begin[static_cast<std::size_t>(i)]);
    c.at.end[static_cast<std::size_t>(i)] = std::max(50, c.at.end[static_cast<std::size_t>(i)]);
  }
  for (int64_t j = 0; j < 50; ++j) {
    for (int64_t i = 0; i < 16; ++i) c.k.at(j, i) = c.v.at(j, i) = from_double<TypeParam>(NAN);
  }
  for_each_isa([&] {
    Forward<TypeParam> out = forward(c);
    for (double x : out.o.values()) ASSERT_FALSE(std::isnan(x));
    Backward<TypeParam> back = backward(c, out);
    for (const auto& part : {back.dq.values(), back.dk.values(), back.dv.values()}) {
      for (double x : part) ASSERT_FALSE(std::isnan(x));
    }
  });
}

// P and delta are then the total ones: what a caller gets who merges two softmaxes by their lse.
TEST(AttentionMerge, BackwardFromAMergedOutputGivesTheGradientsOfTheWhole) {
  Rng rng(16);
  Case<float> whole(rng, {"whole", 80, 100, std::vector<int32_t>(80, 0), std::vector<int32_t>(80, 100)}, 2, 1, 16);
  Case<float> part = whole;
  part.at.end.assign(80, 60);
  Forward<float> total = forward(whole);
  Backward<float> all = backward(whole, total), some = backward(part, total);
  std::vector<double> expected, actual;
  for (int64_t j = 0; j < 60; ++j) {
    for (int64_t c = 0; c < 16; ++c) expected.push_back(all.dk.at(j, c)), actual.push_back(some.dk.at(j, c));
  }
  EXPECT_LT(relative_rms_error(actual, expected), tolerance<float>());
}

// What a caller gets who merges two softmaxes by their log-sum-exps and lets autograd do the rest.
template <class T>
void check_gradient_of_lse() {
  Rng rng(18);
  Case<T> c(rng, window(70, 9), 4, 2, 24);
  Forward<T> saved = forward(c);
  std::vector<double> d_lse = random_normal(rng, c.at.queries * c.heads);
  Backward<T> actual = backward(c, saved, std::vector<float>(d_lse.begin(), d_lse.end()));
  ref::Attention problem = c.problem();
  ref::AttentionGradients expected =
      ref::attention_backward(problem, ref::attention_forward(problem), c.d_o.values(), d_lse);
  EXPECT_LT(relative_rms_error(actual.dq.values(), expected.dq), tolerance<T>());
  EXPECT_LT(relative_rms_error(actual.dk.values(), expected.dk), tolerance<T>());
  EXPECT_LT(relative_rms_error(actual.dv.values(), expected.dv), tolerance<T>());
}
TEST(AttentionMerge, TheLogSumExpHasAGradient) {
  check_gradient_of_lse<float>();
  check_gradient_of_lse<bf16>();
}

TEST(AttentionReference, GradientsAreTheSlopesOfTheForward) {
  Rng rng(17);
  Case<float> c(rng, window(12, 5), 4, 2, 6);
  ref::Attention problem = c.problem();
  std::vector<double> d_o = c.d_o.values();
  std::vector<double> d_lse = random_normal(rng, 12 * 4);
  ref::AttentionGradients gradients = ref::attention_backward(problem, ref::attention_forward(problem), d_o, d_lse);
  auto objective = [&](const ref::Attention& p) {
    ref::AttentionOutput out = ref::attention_forward(p);
    double sum = 0;
    for (std::size_t i = 0; i < out.o.size(); ++i) sum += out.o[i] * d_o[i];
    for (std::size_t i = 0; i < out.lse.size(); ++i) sum += std::isinf(out.lse[i]) ? 0 : out.lse[i] * d_lse[i];
    return sum;
  };
  auto slope = [&](std::vector<double> ref::Attention::*member, const std::vector<double>& gradient) {
    std::vector<double> direction = random_normal(rng, static_cast<int64_t>(gradient.size()));
    ref::Attention up = problem, down = problem;
    double expected = 0, step = 1e-5;
    for (std::size_t i = 0; i < direction.size(); ++i) {
      (up.*member)[i] += step * direction[i];
      (down.*member)[i] -= step * direction[i];
      expected += gradient[i] * direction[i];
    }
    // Central differences: the error is of the order of step^2.
    EXPECT_NEAR((objective(up) - objective(down)) / (2 * step), expected, 1e-6 * (1 + std::abs(expected)));
  };
  slope(&ref::Attention::q, gradients.dq);
  slope(&ref::Attention::k, gradients.dk);
  slope(&ref::Attention::v, gradients.dv);
}

}  // namespace rattan::kernels::attention_test_file
