#include "rattan/kernels/gated_scan.h"

#include "rattan/kernels/ref/gated_scan_ref.h"
#include "tests/kernels/kernel_test_util.h"

namespace rattan::kernels::gated_scan_test_file {

constexpr int64_t state_rows = 5;

// A gated scan with random values rounded to T, and the float64 problem of the very same values.
template <class T>
struct Case {
  int64_t tokens, channels;
  std::vector<ScanSegment> table;
  Rows<T> x, gate, d_h;
  std::vector<float> bias, initial, d_final;

  Case(uint64_t seed, int64_t tokens, int64_t channels, std::vector<ScanSegment> table, int64_t padding)
      : Case(Rng(seed), tokens, channels, std::move(table), padding) {}

  ref::GatedScan problem() const {
    return {tokens, channels, state_rows, table, x.values(), gate.values(), to_doubles(bias), to_doubles(initial)};
  }

 private:
  Case(Rng rng, int64_t tokens, int64_t channels, std::vector<ScanSegment> table, int64_t padding)
      : tokens(tokens),
        channels(channels),
        table(std::move(table)),
        x(Rows<T>::normal(rng, tokens, channels, padding)),
        gate(Rows<T>::normal(rng, tokens, channels, 2 * padding, 2)),
        d_h(Rows<T>::normal(rng, tokens, channels, padding)),
        bias(random_floats(rng, channels)),
        initial(random_floats(rng, state_rows * channels)),
        d_final(random_floats(rng, state_rows * channels)) {}
};

template <class T>
struct Forward {
  Rows<T> h;
  std::vector<float> final;
  bool operator==(const Forward& other) const { return h == other.h && same_bits(final, other.final); }
};

template <class T>
Forward<T> forward(const Case<T>& c, int64_t padding = 3) {
  Forward<T> out{Rows<T>(c.tokens, c.channels, padding), std::vector<float>(c.initial.size())};
  GatedScanForward<T> a;
  a.tokens = c.tokens;
  a.channels = c.channels;
  a.segments = static_cast<int64_t>(c.table.size());
  a.table = c.table.data();
  a.x = c.x.view();
  a.gate = c.gate.view();
  a.gate_bias = c.bias.data();
  a.initial = c.initial.data();
  a.final = out.final.data();
  a.h = out.h.ref();
  gated_scan_forward(a);
  return out;
}

template <class T>
struct Backward {
  Rows<T> d_x, d_gate;
  std::vector<float> d_bias, d_initial;
  bool operator==(const Backward& other) const {
    return d_x == other.d_x && d_gate == other.d_gate && same_bits(d_bias, other.d_bias) &&
           same_bits(d_initial, other.d_initial);
  }
};

template <class T>
Backward<T> backward(const Case<T>& c, int64_t padding = 3) {
  Backward<T> out{Rows<T>(c.tokens, c.channels, padding), Rows<T>(c.tokens, c.channels, padding),
                  std::vector<float>(static_cast<std::size_t>(c.channels), NAN), std::vector<float>(c.initial.size())};
  GatedScanBackward<T> a;
  a.tokens = c.tokens;
  a.channels = c.channels;
  a.segments = static_cast<int64_t>(c.table.size());
  a.table = c.table.data();
  a.x = c.x.view();
  a.gate = c.gate.view();
  a.d_h = c.d_h.view();
  a.gate_bias = c.bias.data();
  a.initial = c.initial.data();
  a.d_final = c.d_final.data();
  a.d_x = out.d_x.ref();
  a.d_gate = out.d_gate.ref();
  a.d_gate_bias = out.d_bias.data();
  a.d_initial = out.d_initial.data();
  gated_scan_backward(a);
  return out;
}

struct Shape {
  int64_t tokens, channels, padding;
  std::vector<ScanSegment> table;
};

std::vector<ScanSegment> many_short_segments(int32_t count) {
  std::vector<ScanSegment> table;
  for (int32_t i = 0, at = 0; i < count; ++i) {
    int32_t length = i % 7;  // some are empty
    table.push_back({at, at + length, i == 3 ? 1 : -1, i == 5 ? 2 : -1});
    at += length + (i % 3 == 0 ? 1 : 0);
  }
  return table;
}

// One long segment, carried states, gaps before, between and after the segments, one-token segments, segments that
// share their initial row, channel counts below, at and above a vector and a block of channels.
std::vector<Shape> shapes() {
  std::vector<ScanSegment> short_segments = many_short_segments(200);
  int64_t short_tokens = short_segments.back().end + 4;
  return {
      {1, 1, 0, {{0, 1, -1, -1}}},
      {300, 5, 2, {{0, 300, 0, 1}}},
      {513, 130, 0, {{0, 513, -1, 0}}},
      {90, 33, 7, {{3, 40, 1, 1}, {40, 41, -1, 2}, {45, 80, 2, -1}}},
      {64, 300, 1, {{0, 16, 3, 0}, {16, 48, 3, 2}, {48, 64, 3, 3}}},
      {short_tokens, 17, 0, short_segments},
      {1040, 300, 0, {{0, 260, 0, -1}, {260, 520, -1, 1}, {520, 781, -1, -1}, {785, 1040, 1, 2}}},
      {10, 16, 0, {}},
  };
}

template <class T>
class GatedScan : public ::testing::Test {};
using Types = ::testing::Types<float, bf16>;
TYPED_TEST_SUITE(GatedScan, Types);

// fp32: a few roundings a step, and the recurrence forgets them. bf16: the output is rounded once.
template <class T>
constexpr double output_bound = std::is_same_v<T, bf16> ? rounding<bf16>() : 12 * rounding<float>();
// What stays in fp32 whatever T is: states, and sums over all tokens.
constexpr double state_bound = 12 * 0x1p-24;
constexpr double sum_bound = 100 * 0x1p-24;

TYPED_TEST(GatedScan, ForwardIsTheRecurrence) {
  for_each_isa([] {
    uint64_t seed = 100;
    for (const Shape& shape : shapes()) {
      SCOPED_TRACE(::testing::Message() << "seed " << seed << ", " << shape.tokens << " x " << shape.channels);
      Case<TypeParam> c(seed++, shape.tokens, shape.channels, shape.table, shape.padding);
      auto out = forward(c, shape.padding);
      auto expected = ref::gated_scan_forward(c.problem());
      EXPECT_LE(relative_rms_error(out.h.values(), expected.h), output_bound<TypeParam>);
      EXPECT_LE(relative_rms_error(to_doubles(out.final), expected.final), state_bound);
      EXPECT_TRUE(out.h.padding_untouched());
    }
  });
}

TYPED_TEST(GatedScan, BackwardIsItsGradient) {
  for_each_isa([] {
    uint64_t seed = 200;
    for (const Shape& shape : shapes()) {
      SCOPED_TRACE(::testing::Message() << "seed " << seed << ", " << shape.tokens << " x " << shape.channels);
      Case<TypeParam> c(seed++, shape.tokens, shape.channels, shape.table, shape.padding);
      auto out = backward(c, shape.padding);
      auto expected = ref::gated_scan_backward(c.problem(), c.d_h.values(), to_doubles(c.d_final));
      EXPECT_LE(relative_rms_error(out.d_x.values(), expected.d_x), output_bound<TypeParam>);
      EXPECT_LE(relative_rms_error(out.d_gate.values(), expected.d_gate), output_bound<TypeParam>);
      EXPECT_LE(relative_rms_error(to_doubles(out.d_bias), expected.d_gate_bias), sum_bound);
      EXPECT_LE(relative_rms_error(to_doubles(out.d_initial), expected.d_initial), state_bound);
      EXPECT_TRUE(out.d_x.padding_untouched());
      EXPECT_TRUE(out.d_gate.padding_untouched());
    }
  });
}

TYPED_TEST(GatedScan, ThreadsDoNotChangeABit) {
  for_each_isa([] {
    for (const Shape& shape : shapes()) {
      Case<TypeParam> c(7, shape.tokens, shape.channels, shape.table, shape.padding);
      expect_same_for_any_thread_count([&] { return forward(c); });
      expect_same_for_any_thread_count([&] { return backward(c); });
    }
  });
}

// A segment cut in two, with the state carried in fp32 (and updated in place), gives the same bits as the whole.
TYPED_TEST(GatedScan, ACarriedStateContinuesExactly) {
  for_each_isa([] {
    constexpr int64_t tokens = 150, channels = 37, cut = 71;
    Case<TypeParam> whole(8, tokens, channels, {{0, tokens, 2, 2}}, 0);
    auto expected = forward(whole, 0);
    std::vector<float> state = whole.initial;
    Rows<TypeParam> h(tokens, channels);
    for (auto [begin, end] : {std::pair{int64_t{0}, cut}, std::pair{cut, tokens}}) {
      ScanSegment segment{0, static_cast<int32_t>(end - begin), 2, 2};
      GatedScanForward<TypeParam> a;
      a.tokens = end - begin;
      a.channels = channels;
      a.segments = 1;
      a.table = &segment;
      a.x = {whole.x.view().at(begin), channels};
      a.gate = {whole.gate.view().at(begin), channels};
      a.gate_bias = whole.bias.data();
      a.initial = state.data();
      a.final = state.data();
      a.h = {h.ref().at(begin), channels};
      gated_scan_forward(a);
    }
    EXPECT_TRUE(h == expected.h);
    for (int64_t i = 0; i < channels; ++i) EXPECT_EQ(state[2 * channels + i], expected.final[2 * channels + i]);
  });
}

// Everything that the header calls optional may be absent; it then counts as zero.
TYPED_TEST(GatedScan, OptionalArgumentsMayBeAbsent) {
  for_each_isa([] {
    constexpr int64_t tokens = 40, channels = 19;
    Case<TypeParam> c(9, tokens, channels, {{0, 25, -1, -1}, {25, 40, -1, -1}}, 0);
    Rows<TypeParam> h(tokens, channels), d_x(tokens, channels), d_gate(tokens, channels);
    GatedScanForward<TypeParam> f;
    f.tokens = tokens;
    f.channels = channels;
    f.segments = 2;
    f.table = c.table.data();
    f.x = c.x.view();
    f.gate = c.gate.view();
    f.h = h.ref();
    gated_scan_forward(f);
    GatedScanBackward<TypeParam> b;
    b.tokens = tokens;
    b.channels = channels;
    b.segments = 2;
    b.table = c.table.data();
    b.x = c.x.view();
    b.gate = c.gate.view();
    b.d_h = c.d_h.view();
    b.d_x = d_x.ref();
    b.d_gate = d_gate.ref();
    gated_scan_backward(b);
    ref::GatedScan problem = c.problem();
    problem.gate_bias.clear();
    problem.initial.clear();
    auto expected = ref::gated_scan_backward(problem, c.d_h.values(), {});
    EXPECT_LE(relative_rms_error(h.values(), ref::gated_scan_forward(problem).h), output_bound<TypeParam>);
    EXPECT_LE(relative_rms_error(d_x.values(), expected.d_x), output_bound<TypeParam>);
    EXPECT_LE(relative_rms_error(d_gate.values(), expected.d_gate), output_bound<TypeParam>);
  });
}

TYPED_TEST(GatedScan, SizesMayBeZero) {
  for_each_isa([] {
    for (auto [tokens, channels] : {std::pair{0, 5}, std::pair{4, 0}, std::pair{0, 0}}) {
      Case<TypeParam> c(10, tokens, channels, {}, 0);
      forward(c);
      auto out = backward(c);
      for (float x : out.d_bias) EXPECT_EQ(x, 0.0f) << "a sum over no tokens is 0";
    }
  });
}

// Saturated gates: g = 1 keeps the state, g = 0 takes the input, nothing becomes NaN.
TYPED_TEST(GatedScan, SaturatedGatesKeepOrReplace) {
  for_each_isa([] {
    Case<TypeParam> c(11, 6, 20, {{0, 6, 0, 0}}, 0);
    std::fill(c.bias.begin(), c.bias.end(), 0.0f);
    for (int64_t i = 0; i < 20; ++i) {
      for (int64_t t = 0; t < 6; ++t) c.gate.at(t, i) = from_double<TypeParam>(t < 3 ? 200 : -200);
    }
    auto out = forward(c, 0);
    for (int64_t i = 0; i < 20; ++i) {
      EXPECT_EQ(to_double(out.h.at(2, i)), to_double(from_double<TypeParam>(c.initial[i])));
      EXPECT_EQ(to_double(out.h.at(5, i)), to_double(c.x.at(5, i)));
    }
    for (double x : backward(c, 0).d_gate.values()) EXPECT_NEAR(x, 0, 1e-30);
  });
}

// The reference itself: its gradients against central differences of its forward pass, all in float64.
TEST(GatedScanReference, GradientsAreThoseOfTheForwardPass) {
  Case<float> c(12, 9, 2, {{1, 5, 1, 2}, {5, 8, 1, 0}}, 0);
  ref::GatedScan problem = c.problem();
  std::vector<double> d_h = c.d_h.values(), d_final = to_doubles(c.d_final);
  auto objective = [&] {
    auto out = ref::gated_scan_forward(problem);
    double sum = 0;
    for (std::size_t i = 0; i < d_h.size(); ++i) sum += out.h[i] * d_h[i];
    for (std::size_t i = 0; i < d_final.size(); ++i) sum += out.final[i] * d_final[i];
    return sum;
  };
  auto gradients = ref::gated_scan_backward(problem, d_h, d_final);
  auto check = [&](std::vector<double>& values, const std::vector<double>& gradient, const char* what) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      double kept = values[i], step = 1e-5;
      values[i] = kept + step;
      double above = objective();
      values[i] = kept - step;
      double below = objective();
      values[i] = kept;
      EXPECT_NEAR(gradient[i], (above - below) / (2 * step), 1e-8) << what << " " << i;
    }
  };
  check(problem.x, gradients.d_x, "x");
  check(problem.gate, gradients.d_gate, "gate");
  check(problem.gate_bias, gradients.d_gate_bias, "gate_bias");
  check(problem.initial, gradients.d_initial, "initial");
}

}  // namespace rattan::kernels::gated_scan_test_file
