#include "rattan/kernels/rat.h"

#include "rattan/kernels/ref/rat_ref.h"
#include "rattan/kernels/rope.h"
#include "tests/kernels/kernel_test_util.h"

namespace rattan::kernels::rat_test_file {

// One sequence of a call: `prior` chunk ends and `open` tokens of a chunk lie before its `tokens`.
struct Sequence {
  int64_t tokens;
  int64_t prior = 0, open = 0;
};

struct Sizes {
  int64_t heads, groups, dim, chunk;
};

struct Layout {
  std::vector<RatChunk> table;
  std::vector<bool> written_before;  // [ends] rows that hold an end before the call
  int64_t tokens = 0, ends = 0, state_rows = 0;
};

// Sequence s keeps its running state in row s, read and written; `gap` rows of padding follow each sequence.
Layout lay_out(const std::vector<Sequence>& sequences, int64_t chunk, int64_t gap) {
  Layout out;
  for (const Sequence& s : sequences) {
    int32_t first = static_cast<int32_t>(out.ends), index = static_cast<int32_t>(s.prior);
    int32_t row = static_cast<int32_t>(out.state_rows++);
    int64_t done = 0, open = s.open;
    while (done < s.tokens) {
      int64_t length = std::min(chunk - open, s.tokens - done);
      RatChunk entry{};
      entry.begin = static_cast<int32_t>(out.tokens + done);
      entry.end = static_cast<int32_t>(entry.begin + length);
      entry.first = first;
      entry.slot = first + index;
      entry.position = index;
      entry.from = open > 0 ? row : -1;
      done += length;
      entry.to = done == s.tokens ? row : -1;
      out.table.push_back(entry);
      ++index;
      open = 0;
    }
    out.written_before.resize(static_cast<std::size_t>(first) + static_cast<std::size_t>(s.prior), true);
    out.written_before.resize(static_cast<std::size_t>(first) + static_cast<std::size_t>(index), false);
    out.ends = first + index;
    out.tokens += s.tokens + gap;
  }
  return out;
}

template <class T>
struct Case {
  Sizes sizes;
  Layout layout;
  RatShape shape;
  Rows<T> proj, d_out;
  Rows<T> ends_k, ends_v;
  Rows<float> running_k, running_v, d_final_k, d_final_v, d_ends_k, d_ends_v;
  std::vector<float> bias, cos, sin;

  Case(Rng& rng, Sizes s, const std::vector<Sequence>& sequences, bool rotate, int64_t gap = 0)
      : sizes(s),
        layout(lay_out(sequences, s.chunk, gap)),
        shape(make_shape()),
        proj(Rows<T>::normal(rng, shape.tokens, shape.width(), 3)),
        d_out(Rows<T>::normal(rng, shape.tokens, width(), 1)),
        ends_k(ends(rng)),
        ends_v(ends(rng)),
        running_k(states(rng)),
        running_v(states(rng)),
        d_final_k(states(rng)),
        d_final_v(states(rng)),
        d_ends_k(Rows<float>::normal(rng, shape.ends, width(), 5)),
        d_ends_v(Rows<float>::normal(rng, shape.ends, width(), 5)),
        bias(random_floats(rng, width())) {
    if (!rotate) return;
    int64_t positions = 1;
    for (const RatChunk& entry : layout.table) positions = std::max<int64_t>(positions, entry.position + 1);
    cos.resize(static_cast<std::size_t>(positions * s.dim / 2));
    sin.resize(cos.size());
    rope_table(positions, s.dim, 10000, cos.data(), sin.data());
  }
  int64_t width() const { return sizes.heads * sizes.dim; }

  ref::Rat problem() const {
    ref::Rat a{shape,           layout.table,    proj.values(),   to_doubles(bias),   to_doubles(cos),
               to_doubles(sin), ends_k.values(), ends_v.values(), running_k.values(), running_v.values()};
    return a;
  }
  ref::RatUpstream upstream() const {
    return {d_out.values(), d_ends_k.values(), d_ends_v.values(), d_final_k.values(), d_final_v.values()};
  }

 private:
  RatShape make_shape() const {
    RatShape out;
    out.tokens = layout.tokens;
    out.heads = sizes.heads, out.groups = sizes.groups, out.dim = sizes.dim;
    out.chunks = static_cast<int64_t>(layout.table.size());
    out.ends = layout.ends;
    out.max_chunk = sizes.chunk;
    return out;
  }
  // Rows that no earlier call wrote stay NaN: reading one shows.
  Rows<T> ends(Rng& rng) const {
    Rows<T> out(shape.ends, width(), 2);
    for (int64_t e = 0; e < shape.ends; ++e) {
      if (!layout.written_before[static_cast<std::size_t>(e)]) continue;
      for (int64_t i = 0; i < width(); ++i) out.at(e, i) = from_double<T>(0.7 * rng.normal());
    }
    return out;
  }
  Rows<float> states(Rng& rng) const { return Rows<float>::normal(rng, layout.state_rows, width(), 4, 0.7); }
};

template <class T>
struct Forward {
  Rows<T> out, ends_k, ends_v;
  Rows<float> state_k, state_v;  // read as running and written as final state
  std::vector<float> lse;
  bool operator==(const Forward& other) const {
    return out == other.out && ends_k == other.ends_k && ends_v == other.ends_v && state_k == other.state_k &&
           state_v == other.state_v && same_bits(lse, other.lse);
  }
};

template <class T>
Forward<T> forward(const Case<T>& c, bool saving = true) {
  Forward<T> out{Rows<T>(c.shape.tokens, c.width(), 2),
                 c.ends_k,
                 c.ends_v,
                 c.running_k,
                 c.running_v,
                 std::vector<float>(static_cast<std::size_t>(c.shape.tokens * c.shape.heads), NAN)};
  RatForward<T> a;
  a.shape = c.shape;
  a.table = c.layout.table.data();
  a.proj = c.proj.view();
  a.gate_bias = c.bias.data();
  a.cos = c.cos.empty() ? nullptr : c.cos.data();
  a.sin = c.sin.empty() ? nullptr : c.sin.data();
  a.ends_k = out.ends_k.heads(c.sizes.dim), a.ends_v = out.ends_v.heads(c.sizes.dim);
  a.running_k = out.state_k.heads_view(c.sizes.dim), a.running_v = out.state_v.heads_view(c.sizes.dim);
  a.final_k = out.state_k.heads(c.sizes.dim), a.final_v = out.state_v.heads(c.sizes.dim);
  a.out = out.out.ref();
  if (saving) a.lse = out.lse.data();
  rat_forward(a);
  return out;
}

template <class T>
struct Backward {
  Rows<T> d_proj;
  Rows<float> d_ends_k, d_ends_v, d_running_k, d_running_v;
  std::vector<float> d_bias;
  bool operator==(const Backward& other) const {
    return d_proj == other.d_proj && d_ends_k == other.d_ends_k && d_ends_v == other.d_ends_v &&
           d_running_k == other.d_running_k && d_running_v == other.d_running_v && same_bits(d_bias, other.d_bias);
  }
};

template <class T>
Backward<T> backward(const Case<T>& c, const Forward<T>& saved) {
  Backward<T> out{Rows<T>(c.shape.tokens, c.shape.width(), 2),
                  c.d_ends_k,
                  c.d_ends_v,
                  Rows<float>(c.layout.state_rows, c.width(), 1),
                  Rows<float>(c.layout.state_rows, c.width(), 1),
                  std::vector<float>(static_cast<std::size_t>(c.width()), NAN)};
  RatBackward<T> a;
  a.shape = c.shape;
  a.table = c.layout.table.data();
  a.proj = c.proj.view();
  a.gate_bias = c.bias.data();
  a.cos = c.cos.empty() ? nullptr : c.cos.data();
  a.sin = c.sin.empty() ? nullptr : c.sin.data();
  a.ends_k = saved.ends_k.heads_view(c.sizes.dim), a.ends_v = saved.ends_v.heads_view(c.sizes.dim);
  a.running_k = c.running_k.heads_view(c.sizes.dim), a.running_v = c.running_v.heads_view(c.sizes.dim);
  a.out = saved.out.view();
  a.lse = saved.lse.data();
  a.d_out = c.d_out.view();
  a.d_final_k = c.d_final_k.heads_view(c.sizes.dim), a.d_final_v = c.d_final_v.heads_view(c.sizes.dim);
  a.d_proj = out.d_proj.ref();
  a.d_gate_bias = out.d_bias.data();
  a.d_ends_k = out.d_ends_k.heads(c.sizes.dim), a.d_ends_v = out.d_ends_v.heads(c.sizes.dim);
  a.d_running_k = out.d_running_k.heads(c.sizes.dim), a.d_running_v = out.d_running_v.heads(c.sizes.dim);
  rat_backward(a);
  return out;
}

// fp32: the recurrence and the sums lose some tens of roundings. bf16: the ends, the probabilities, the score
// gradients and the outputs are rounded once each.
template <class T>
double tolerance() {
  return std::is_same_v<T, bf16> ? 3 * rounding<T>() : 60 * rounding<T>();
}

// Elements where both are finite or the reference is -inf; NaN in `actual` makes the error infinite.
double lse_error(const std::vector<float>& actual, std::vector<double> expected) {
  std::vector<double> values = to_doubles(actual);
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (std::isinf(expected[i]) && values[i] == expected[i]) values[i] = expected[i] = 0;
  }
  return relative_rms_error(values, expected);
}

// The rows of the running state that some chunk reads (`from`) or writes (`to`).
std::vector<double> named_rows(const std::vector<RatChunk>& table, int32_t RatChunk::*which,
                               const std::vector<double>& x, int64_t width) {
  std::vector<double> out;
  for (const RatChunk& entry : table) {
    if (entry.*which < 0) continue;
    for (int64_t i = 0; i < width; ++i) out.push_back(x[static_cast<std::size_t>(entry.*which * width + i)]);
  }
  return out;
}

template <class T>
void check(const Case<T>& c) {
  SCOPED_TRACE(testing::Message() << "heads " << c.sizes.heads << " groups " << c.sizes.groups << " dim " << c.sizes.dim
                                  << " chunk " << c.sizes.chunk << " tokens " << c.shape.tokens << " chunks "
                                  << c.shape.chunks);
  const std::vector<RatChunk>& table = c.layout.table;
  ref::RatOutput expected = ref::rat_forward(c.problem());
  ref::RatGradients gradients = ref::rat_backward(c.problem(), c.upstream());
  for_each_isa([&] {
    Forward<T> out = forward(c);
    EXPECT_LT(relative_rms_error(out.out.values(), expected.out), tolerance<T>());
    EXPECT_LT(relative_max_error(out.out.values(), expected.out), 20 * tolerance<T>());
    EXPECT_LT(lse_error(out.lse, expected.lse), tolerance<T>());
    EXPECT_LT(relative_rms_error(out.ends_k.values(), expected.ends_k), tolerance<T>());
    EXPECT_LT(relative_rms_error(out.ends_v.values(), expected.ends_v), tolerance<T>());
    EXPECT_LT(relative_rms_error(named_rows(table, &RatChunk::to, out.state_k.values(), c.width()),
                                 named_rows(table, &RatChunk::to, expected.final_k, c.width())),
              60 * rounding<float>());
    EXPECT_LT(relative_rms_error(named_rows(table, &RatChunk::to, out.state_v.values(), c.width()),
                                 named_rows(table, &RatChunk::to, expected.final_v, c.width())),
              60 * rounding<float>());
    EXPECT_TRUE(out.out.padding_untouched() && out.ends_k.padding_untouched());
    EXPECT_TRUE(forward(c, false).out == out.out) << "saving lse changes the output";

    Backward<T> back = backward(c, out);
    // Columns by kind, since the gradients of queries and keys are smaller than those of values.
    int64_t width = c.width(), shared = c.sizes.groups * c.sizes.dim;
    const std::pair<const char*, std::pair<int64_t, int64_t>> kinds[] = {{"z", {0, width}},
                                                                         {"v", {width, 2 * width}},
                                                                         {"g", {2 * width, 3 * width}},
                                                                         {"q", {3 * width, 3 * width + shared}},
                                                                         {"k", {3 * width + shared, c.shape.width()}}};
    for (const auto& [kind, columns] : kinds) {
      std::vector<double> actual, wanted;
      for (int64_t i = 0; i < c.shape.tokens; ++i) {
        for (int64_t j = columns.first; j < columns.second; ++j) {
          actual.push_back(to_double(back.d_proj.at(i, j)));
          wanted.push_back(gradients.d_proj[static_cast<std::size_t>(i * c.shape.width() + j)]);
        }
      }
      if (rms(wanted) == 0) {
        EXPECT_EQ(rms(actual), 0) << kind;
      } else {
        EXPECT_LT(relative_rms_error(actual, wanted), 3 * tolerance<T>()) << kind;
      }
    }
    EXPECT_LT(relative_rms_error(to_doubles(back.d_bias), gradients.d_gate_bias), 3 * tolerance<T>());
    EXPECT_LT(relative_rms_error(back.d_ends_k.values(), gradients.d_ends_k), 2 * tolerance<T>());
    EXPECT_LT(relative_rms_error(back.d_ends_v.values(), gradients.d_ends_v), 2 * tolerance<T>());
    EXPECT_LT(relative_rms_error(named_rows(table, &RatChunk::from, back.d_running_k.values(), width),
                                 named_rows(table, &RatChunk::from, gradients.d_running_k, width)),
              2 * tolerance<T>());
    EXPECT_LT(relative_rms_error(named_rows(table, &RatChunk::from, back.d_running_v.values(), width),
                                 named_rows(table, &RatChunk::from, gradients.d_running_v, width)),
              2 * tolerance<T>());
    EXPECT_TRUE(back.d_proj.padding_untouched() && back.d_ends_k.padding_untouched());
  });
}

template <class T>
class RatTest : public testing::Test {};
using Types = testing::Types<float, bf16>;
TYPED_TEST_SUITE(RatTest, Types);

TYPED_TEST(RatTest, EqualsTheReferenceForEveryChunkLength) {
  Rng rng(21);
  for (int64_t chunk : {1, 2, 3, 7, 16, 33, 64, 65, 100, 200, 1000}) {
    check(Case<TypeParam>(rng, {2, 1, 16, chunk}, {{200}}, true));
  }
  for (int64_t tokens : {1, 2, 15, 16, 17, 63, 64, 65, 128, 131}) {
    check(Case<TypeParam>(rng, {2, 2, 16, 4}, {{tokens}}, true));
  }
}

TYPED_TEST(RatTest, EqualsTheReferenceForEveryHeadSize) {
  Rng rng(22);
  for (int64_t dim : {2, 6, 20, 34, 64, 72, 128}) check(Case<TypeParam>(rng, {4, 2, dim, 8}, {{90}}, true));
  for (int64_t dim : {1, 5, 17}) check(Case<TypeParam>(rng, {3, 1, dim, 5}, {{90}}, false));
  check(Case<TypeParam>(rng, {6, 2, 16, 16}, {{100}}, true));
  check(Case<TypeParam>(rng, {3, 3, 16, 16}, {{100}}, false));
}

TYPED_TEST(RatTest, SequencesSideBySideWithPaddingAndEarlierState) {
  Rng rng(23);
  check(Case<TypeParam>(rng, {2, 1, 16, 8}, {{20}, {1}, {64}, {7}, {33}}, true));
  check(Case<TypeParam>(rng, {2, 2, 24, 8}, {{20}, {9}, {70}}, true, 5));
  check(Case<TypeParam>(rng, {2, 1, 16, 8}, {{20, 3, 5}, {9, 70, 0}, {1, 2, 7}, {3, 0, 4}}, true, 2));
  check(Case<TypeParam>(rng, {2, 1, 16, 100}, {{300, 2, 30}, {150, 0, 99}}, true, 1));
  check(Case<TypeParam>(rng, {2, 1, 16, 16}, {{3000, 1, 3}}, true));  // several rounds of backward
}

TYPED_TEST(RatTest, OneTokenOfManySequencesWithLongCaches) {
  Rng rng(24);
  check(Case<TypeParam>(rng, {2, 1, 16, 4}, {{1, 0, 0}, {1, 5, 3}, {1, 1024, 0}, {1, 1025, 1}, {1, 2500, 2}}, true));
  check(Case<TypeParam>(rng, {4, 2, 20, 16}, {{1, 40, 3}, {1, 0, 9}, {2, 30, 0}, {17, 3, 5}}, true));
}

TYPED_TEST(RatTest, IsTheSameBitForBitForAnyNumberOfThreadsAndFromRunToRun) {
  Rng rng(25);
  const std::vector<Sequence> layouts[] = {{{300}}, {{40, 3, 2}, {130}, {1, 2000, 1}}, {{2500}}};
  for (int64_t chunk : {5, 16, 400}) {
    for (const auto& sequences : layouts) {
      Case<TypeParam> c(rng, {4, 2, 16, chunk}, sequences, true, 1);
      for_each_isa([&] {
        expect_same_for_any_thread_count([&] { return forward(c); });
        Forward<TypeParam> saved = forward(c);
        EXPECT_TRUE(saved == forward(c));
        expect_same_for_any_thread_count([&] { return backward(c, saved); });
      });
    }
  }
}

// One token after the other on a cache gives what one call over all tokens gives.
TYPED_TEST(RatTest, OneTokenStepsEqualTheWhole) {
  Rng rng(26);
  for (int64_t chunk : {1, 4, 16, 50}) {
    SCOPED_TRACE(testing::Message() << "chunk " << chunk);
    Case<TypeParam> whole(rng, {2, 1, 20, chunk}, {{50}}, true);
    for_each_isa([&] {
      Forward<TypeParam> expected = forward(whole);
      Case<TypeParam> step = whole;
      std::vector<double> outputs;
      for (int32_t t = 0; t < 50; ++t) {
        int32_t c = t / static_cast<int32_t>(chunk);
        step.layout.table = {{t, t + 1, 0, c, c, t % chunk > 0 ? 0 : -1, 0}};
        step.shape.chunks = 1;
        Forward<TypeParam> out = forward(step);
        step.ends_k = out.ends_k, step.ends_v = out.ends_v;
        step.running_k = out.state_k, step.running_v = out.state_v;
        for (int64_t i = 0; i < step.width(); ++i) outputs.push_back(to_double(out.out.at(t, i)));
      }
      // The two forms add in another order; in bf16 the products of the tiles round the probabilities too.
      EXPECT_LT(relative_rms_error(outputs, expected.out.values()), tolerance<TypeParam>());
      EXPECT_TRUE(step.ends_k == expected.ends_k && step.ends_v == expected.ends_v);
      EXPECT_TRUE(step.running_k == expected.state_k && step.running_v == expected.state_v);
    });
  }
}

// With one chunk there is nothing to attend to: out is the gated recurrence itself, and queries and keys get no
// gradient.
TYPED_TEST(RatTest, OneChunkIsARecurrence) {
  Rng rng(27);
  Case<TypeParam> c(rng, {2, 1, 16, 300}, {{300}}, true);
  for (int64_t e = 0; e < c.shape.ends; ++e) {
    for (int64_t i = 0; i < c.width(); ++i) c.d_ends_k.at(e, i) = c.d_final_k.at(e, i) = 0;
  }
  std::vector<double> expected = ref::rat_forward(c.problem()).values;
  for (int64_t i = 0; i < c.shape.tokens * c.width(); ++i)
    expected[static_cast<std::size_t>(i)] /= 1 + std::exp(-to_double(c.proj.at(i / c.width(), i % c.width())));
  for_each_isa([&] {
    Forward<TypeParam> out = forward(c);
    EXPECT_LT(relative_rms_error(out.out.values(), expected), tolerance<TypeParam>());
    Backward<TypeParam> back = backward(c, out);
    for (int64_t i = 0; i < c.shape.tokens; ++i) {
      for (int64_t j = 3 * c.width(); j < c.shape.width(); ++j) ASSERT_EQ(to_double(back.d_proj.at(i, j)), 0);
    }
  });
}

TYPED_TEST(RatTest, NoTokenSeesItsFuture) {
  Rng rng(28);
  for (int64_t chunk : {1, 8, 90}) {
    Case<TypeParam> c(rng, {2, 1, 16, chunk}, {{150}}, true);
    for_each_isa([&] {
      Forward<TypeParam> before = forward(c);
      for (int64_t changed : {0, 5, 8, 63, 64, 100, 149}) {
        Case<TypeParam> other = c;
        for (int64_t j = 0; j < c.shape.width(); ++j) other.proj.at(changed, j) = from_double<TypeParam>(rng.normal());
        Forward<TypeParam> after = forward(other);
        for (int64_t i = 0; i < changed; ++i) {
          for (int64_t j = 0; j < c.width(); ++j) {
            ASSERT_EQ(to_double(before.out.at(i, j)), to_double(after.out.at(i, j))) << i << " sees " << changed;
          }
        }
      }
    });
  }
}

// The rotation is relative: shifting all chunk indices changes nothing.
TEST(Rat, PositionsMatterOnlyByTheirDifferences) {
  Rng rng(29);
  Case<float> c(rng, {2, 1, 16, 8}, {{100, 0, 0}}, true);
  c.cos.resize(40 * 8), c.sin.resize(40 * 8);
  rope_table(40, 16, 10000, c.cos.data(), c.sin.data());
  Forward<float> here = forward(c);
  for (RatChunk& entry : c.layout.table) entry.position += 20;
  EXPECT_LT(relative_rms_error(forward(c).out.values(), here.out.values()), tolerance<float>());
}

TEST(RatReference, GradientsAreTheSlopesOfTheForward) {
  Rng rng(30);
  Case<float> c(rng, {4, 2, 6, 4}, {{11, 2, 3}, {9, 0, 0}, {1, 1, 2}}, true, 1);
  ref::Rat problem = c.problem();
  for (auto* ends : {&problem.ends_k, &problem.ends_v}) {
    for (double& x : *ends) x = std::isnan(x) ? 0 : x;
  }
  ref::RatUpstream up = c.upstream();
  ref::RatGradients gradients = ref::rat_backward(problem, up);
  auto dot = [](const std::vector<double>& a, const std::vector<double>& b) {
    double sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
    return sum;
  };
  auto objective = [&](const ref::Rat& p) {
    ref::RatOutput o = ref::rat_forward(p);
    return dot(o.out, up.d_out) + dot(o.ends_k, up.d_ends_k) + dot(o.ends_v, up.d_ends_v) +
           dot(o.final_k, up.d_final_k) + dot(o.final_v, up.d_final_v);
  };
  auto slope = [&](const char* what, std::vector<double> ref::Rat::*member, const std::vector<double>& gradient,
                   auto&& counts) {
    std::vector<double> direction = random_normal(rng, static_cast<int64_t>(gradient.size()));
    ref::Rat ahead = problem, behind = problem;
    double expected = 0, step = 1e-5;
    for (std::size_t i = 0; i < direction.size(); ++i) {
      if (!counts(static_cast<int64_t>(i) / c.width())) continue;
      (ahead.*member)[i] += step * direction[i];
      (behind.*member)[i] -= step * direction[i];
      expected += gradient[i] * direction[i];
    }
    // Central differences: the error is of the order of step^2.
    EXPECT_NEAR((objective(ahead) - objective(behind)) / (2 * step), expected, 1e-6 * (1 + std::abs(expected))) << what;
  };
  auto all = [](int64_t) { return true; };
  auto earlier = [&](int64_t e) { return bool{c.layout.written_before[static_cast<std::size_t>(e)]}; };
  slope("proj", &ref::Rat::proj, gradients.d_proj, all);
  slope("bias", &ref::Rat::gate_bias, gradients.d_gate_bias, all);
  slope("running k", &ref::Rat::running_k, gradients.d_running_k, all);
  slope("running v", &ref::Rat::running_v, gradients.d_running_v, all);
  slope("ends k", &ref::Rat::ends_k, gradients.d_ends_k, earlier);
  slope("ends v", &ref::Rat::ends_v, gradients.d_ends_v, earlier);
}

}  // namespace rattan::kernels::rat_test_file
