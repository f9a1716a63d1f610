// The fused CUDA RAT kernels against their float64 reference.
#include "rattan/kernels/rat.h"

#include <algorithm>
#include <array>

#include "rattan/kernels/ref/rat_ref.h"
#include "rattan/kernels/rope.h"
#include "tests/kernels_cuda/cuda_test_util.h"

namespace rattan::kernels::rat_cuda_test_file {

template <class T>
class RatCuda : public ::testing::Test {};
using Types = ::testing::Types<float, bf16>;
TYPED_TEST_SUITE(RatCuda, Types);

// bf16: chunk ends, rotated queries, probabilities and the part from the ends are rounded on the way, gradients
// also through y in delta and dy. fp32: sums over a head, over the ends, and roundings of the recurrence.
template <class T>
constexpr double forward_bound = std::is_same_v<T, bf16> ? 2 * rounding<bf16>() : 50 * rounding<float>();
template <class T>
constexpr double backward_bound = std::is_same_v<T, bf16> ? 4 * rounding<bf16>() : 200 * rounding<float>();

// A sequence of a call: what its cache holds (whole chunks, then `partial` tokens of the running one) and how many
// tokens come. `gap` tokens of padding precede it.
struct Sequence {
  int64_t past, partial, tokens, gap;
};

struct Shape {
  int64_t heads, groups, dim, chunk, padding;
  bool rotate;
  std::vector<Sequence> sequences;
};

struct Layout {
  std::vector<RatChunk> table;
  int64_t tokens = 0, ends = 0, positions = 1;
};

Layout make_layout(const Shape& shape) {
  Layout out;
  for (std::size_t s = 0; s < shape.sequences.size(); ++s) {
    const Sequence& sequence = shape.sequences[s];
    out.tokens += sequence.gap;
    const auto base = static_cast<int32_t>(out.ends);
    const auto row = static_cast<int32_t>(s);
    int64_t position = sequence.past, left = sequence.tokens, room = shape.chunk - sequence.partial;
    bool carried = sequence.partial > 0;
    while (left > 0) {
      const int64_t n = std::min(left, room);
      out.table.push_back({static_cast<int32_t>(out.tokens), static_cast<int32_t>(out.tokens + n), base,
                           base + static_cast<int32_t>(position), static_cast<int32_t>(position), carried ? row : -1,
                           n == left ? row : -1});
      out.tokens += n, left -= n, position += 1, room = shape.chunk, carried = false;
    }
    out.ends += std::max<int64_t>(position, sequence.past);
    out.positions = std::max(out.positions, position);
  }
  out.tokens += 2;  // padding after the last sequence
  return out;
}

std::vector<Shape> shapes() {
  return {
      {1, 1, 2, 4, 0, true, {{0, 0, 1, 0}}},
      {4, 2, 16, 16, 0, true, {{0, 0, 100, 0}, {0, 0, 37, 3}, {0, 0, 16, 0}}},
      {3, 2, 6, 5, 1, true, {{0, 0, 33, 1}, {2, 3, 21, 0}}},
      {2, 1, 64, 1, 0, true, {{0, 0, 80, 0}, {3, 0, 9, 2}}},
      {4, 2, 128, 16, 0, true, {{0, 0, 300, 0}, {5, 7, 120, 0}}},
      {2, 2, 33, 8, 0, false, {{0, 0, 50, 0}, {0, 5, 2, 0}}},
      {2, 1, 128, 500, 8, true, {{0, 0, 500, 0}, {0, 130, 200, 0}}},  // chunks longer than any tile
      {10, 1, 32, 16, 0, true, {{0, 0, 70, 0}}},                      // more heads a group than warps a block
      {20, 1, 8, 3, 0, true, {{1, 2, 30, 5}}},
      {2, 1, 256, 16, 0, true, {{0, 0, 90, 0}, {4, 1, 5, 0}}},
      {2, 1, 200, 7, 3, true, {{0, 0, 40, 0}}},
      {4, 2, 128, 16, 0, true, {{40, 3, 1, 0}, {61, 15, 1, 0}, {33, 0, 1, 0}, {70, 9, 1, 0}}},  // decoding steps
      {2, 2, 64, 4, 0, true, {{100, 2, 3, 0}, {0, 0, 1, 0}}},
      // Chunks of one piece of 16 tokens, of several, and with a last piece of one token; few, so that heads of a group
      // are shared between blocks.
      {6, 3, 96, 17, 0, true, {{0, 0, 100, 0}, {2, 16, 30, 1}}},
      {4, 2, 64, 40, 0, true, {{0, 0, 200, 0}, {1, 7, 90, 3}}},
      {8, 2, 128, 64, 0, true, {{0, 0, 300, 0}, {1, 33, 64, 0}}},
      {4, 1, 128, 333, 0, true, {{0, 0, 333, 0}}},
      {3, 2, 6, 20, 1, true, {{0, 0, 85, 2}, {1, 18, 30, 0}}},  // pairs of channels do not go together
      {2, 1, 100, 2, 0, true, {{0, 0, 31, 0}}},
      {4, 4, 32, 5, 2, true, {{0, 0, 64, 0}, {3, 4, 11, 0}}},
      {70, 2, 8, 16, 0, true, {{0, 0, 50, 0}}},  // more heads a group than a block takes
      {10, 2, 256, 16, 0, true, {{0, 0, 40, 0}}},
      {4, 2, 32, 4, 0, true, {{0, 0, 700, 0}, {0, 0, 403, 7}}},  // enough chunks that a block takes a group
      {4, 2, 64, 1, 0, true, {{0, 0, 900, 3}}},                  // tiles that see few ends and many
      {4, 2, 128, 2, 8, true, {{600, 1, 300, 4}, {0, 0, 50, 0}}},
      {4, 2, 128, 1, 0, true, {{0, 0, 900, 3}, {0, 0, 700, 0}}},  // ends enough for the attention's joint pass
  };
}

template <class T>
struct Problem {
  Layout layout;
  RatShape shape;
  int64_t rows, width;
  DeviceRows<T> proj, past_k, past_v, d_out;
  std::vector<float> bias, running_k, running_v, d_final_k, d_final_v, d_ends_k, d_ends_v, cos, sin;

  Problem(const Shape& s, Rng rng)
      : layout(make_layout(s)),
        shape{layout.tokens, s.heads, s.groups, s.dim, static_cast<int64_t>(layout.table.size()), layout.ends, s.chunk},
        rows(static_cast<int64_t>(s.sequences.size())),
        width(s.heads * s.dim),
        proj(normal_on_device<T>(rng, layout.tokens, shape.width(), s.padding, 1.5)),
        past_k(normal_on_device<T>(rng, layout.ends, width, s.padding)),
        past_v(normal_on_device<T>(rng, layout.ends, width, s.padding)),
        d_out(normal_on_device<T>(rng, layout.tokens, width, s.padding)),
        bias(random_floats(rng, width)) {
    for (auto* x : {&running_k, &running_v, &d_final_k, &d_final_v}) *x = random_floats(rng, rows * width);
    for (auto* x : {&d_ends_k, &d_ends_v}) *x = random_floats(rng, layout.ends * width, 0.1);
    if (!s.rotate) return;
    cos.resize(static_cast<std::size_t>(layout.positions * (s.dim / 2)));
    sin.resize(cos.size());
    rope_table(layout.positions, s.dim, 10000, cos.data(), sin.data());
  }

  ref::Rat reference() const {
    return {
        shape,           layout.table,           proj.host().values(),   to_doubles(bias),      to_doubles(cos),
        to_doubles(sin), past_k.host().values(), past_v.host().values(), to_doubles(running_k), to_doubles(running_v)};
  }
};

template <class T>
struct Output {
  DeviceRows<T> out, ends_k, ends_v, d_proj;
  DeviceRows<float> lse, d_bias;
  // The running states are updated in place: what is read and what is written share their storage.
  DeviceVector<float> running_k, running_v, d_ends_k, d_ends_v, d_running_k, d_running_v;

  explicit Output(const Problem<T>& p, int64_t padding)
      : out(p.shape.tokens, p.width, padding),
        ends_k(p.past_k.host(), p.shape.ends),
        ends_v(p.past_v.host(), p.shape.ends),
        d_proj(p.shape.tokens, p.shape.width(), padding),
        lse(p.shape.tokens, p.shape.heads),
        d_bias(1, p.width),
        running_k(p.running_k),
        running_v(p.running_v),
        d_ends_k(p.d_ends_k),
        d_ends_v(p.d_ends_v),
        d_running_k(std::vector<float>(p.running_k.size())),
        d_running_v(std::vector<float>(p.running_k.size())) {}

  void pull() { out.pull(), ends_k.pull(), ends_v.pull(), d_proj.pull(), lse.pull(), d_bias.pull(); }
  bool same(Output& o) {
    return out.host() == o.out.host() && ends_k.host() == o.ends_k.host() && d_proj.host() == o.d_proj.host() &&
           lse.host() == o.lse.host() && d_bias.host() == o.d_bias.host() &&
           same_bits(d_ends_k.pull(), o.d_ends_k.pull()) && same_bits(d_ends_v.pull(), o.d_ends_v.pull()) &&
           same_bits(running_k.pull(), o.running_k.pull());
  }
};

// What a call needs on the device beside the problem's rows.
template <class T>
struct Inputs {
  DeviceVector<RatChunk> table;
  DeviceVector<float> bias, cos, sin, running_k, running_v;
  explicit Inputs(const Problem<T>& p)
      : table(p.layout.table), bias(p.bias), cos(p.cos), sin(p.sin), running_k(p.running_k), running_v(p.running_v) {}
};

template <class T>
RatForward<T> forward_call(const Problem<T>& p, const Inputs<T>& in, Output<T>& o) {
  const int64_t D = p.width, dim = p.shape.dim;
  RatForward<T> f;
  f.shape = p.shape, f.table = in.table.data(), f.proj = p.proj.view(), f.gate_bias = in.bias.data();
  f.cos = in.cos.data(), f.sin = in.sin.data();
  f.ends_k = o.ends_k.heads(dim), f.ends_v = o.ends_v.heads(dim);
  f.running_k = {o.running_k.data(), D, dim}, f.running_v = {o.running_v.data(), D, dim};
  f.final_k = {o.running_k.data(), D, dim}, f.final_v = {o.running_v.data(), D, dim};
  f.out = o.out.ref(), f.lse = o.lse.data();
  return f;
}

// As in inference: without lse; the last states go to memory of their own.
template <class T>
Output<T> run_forward(const Problem<T>& p, int64_t padding) {
  Output<T> o(p, padding);
  const Inputs<T> in(p);
  RatForward<T> f = forward_call(p, in, o);
  f.lse = nullptr;
  f.running_k.data = in.running_k.data(), f.running_v.data = in.running_v.data();
  DeviceMemory scratch(cuda::rat_forward_scratch_bytes(f));
  cuda::rat_forward(f, scratch.data(), nullptr);
  o.out.pull();
  return o;
}

template <class T>
Output<T> run(const Problem<T>& p, int64_t padding) {
  Output<T> o(p, padding);
  const int64_t D = p.width, dim = p.shape.dim;
  const Inputs<T> in(p);
  const RatForward<T> f = forward_call(p, in, o);
  DeviceVector<float> d_final_k(p.d_final_k), d_final_v(p.d_final_v);
  DeviceMemory forward_scratch(cuda::rat_forward_scratch_bytes(f));
  cuda::rat_forward(f, forward_scratch.data(), nullptr);

  RatBackward<T> b;
  b.shape = p.shape, b.table = in.table.data(), b.proj = p.proj.view(), b.gate_bias = in.bias.data();
  b.cos = in.cos.data(), b.sin = in.sin.data();
  b.ends_k = o.ends_k.heads_view(dim), b.ends_v = o.ends_v.heads_view(dim);
  b.running_k = {in.running_k.data(), D, dim}, b.running_v = {in.running_v.data(), D, dim};
  b.out = o.out.view(), b.lse = o.lse.data(), b.d_out = p.d_out.view();
  b.d_final_k = {d_final_k.data(), D, dim}, b.d_final_v = {d_final_v.data(), D, dim};
  b.d_proj = o.d_proj.ref(), b.d_gate_bias = o.d_bias.data();
  b.d_ends_k = {o.d_ends_k.data(), D, dim}, b.d_ends_v = {o.d_ends_v.data(), D, dim};
  b.d_running_k = {o.d_running_k.data(), D, dim}, b.d_running_v = {o.d_running_v.data(), D, dim};
  DeviceMemory backward_scratch(cuda::rat_backward_scratch_bytes(p.shape));
  cuda::rat_backward(b, backward_scratch.data(), nullptr);
  o.pull();
  return o;
}

// The columns of one stream of proj.
std::vector<double> columns(const std::vector<double>& rows, int64_t width, int64_t first, int64_t count) {
  std::vector<double> out;
  for (std::size_t r = 0; r < rows.size(); r += static_cast<std::size_t>(width)) {
    const auto begin = rows.begin() + static_cast<std::ptrdiff_t>(r) + first;
    out.insert(out.end(), begin, begin + count);
  }
  return out;
}

TYPED_TEST(RatCuda, IsTheFormulaAndItsGradient) {
  RATTAN_NEEDS_GPU();
  using T = TypeParam;
  uint64_t seed = 5000;
  for (const Shape& s : shapes()) {
    SCOPED_TRACE(::testing::Message() << "seed " << seed << ", " << s.heads << " heads of " << s.dim << " in "
                                      << s.groups << " groups, L = " << s.chunk);
    const Problem<T> p(s, Rng(seed++));
    const ref::Rat reference = p.reference();
    const auto expected = ref::rat_forward(reference);
    const auto gradients =
        ref::rat_backward(reference, {p.d_out.host().values(), to_doubles(p.d_ends_k), to_doubles(p.d_ends_v),
                                      to_doubles(p.d_final_k), to_doubles(p.d_final_v)});
    auto o = run(p, s.padding), again = run(p, s.padding);

    EXPECT_LE(relative_rms_error(o.out.host().values(), expected.out), forward_bound<T>);
    EXPECT_LE(relative_rms_error(o.ends_k.host().values(), expected.ends_k), forward_bound<T>);
    EXPECT_LE(relative_rms_error(o.ends_v.host().values(), expected.ends_v), forward_bound<T>);
    const auto lse = o.lse.host().values();
    for (std::size_t i = 0; i < lse.size(); ++i) {
      if (std::isinf(expected.lse[i])) {
        ASSERT_EQ(lse[i], expected.lse[i]);
      } else {
        // Scores of a few units from keys and queries that bf16 rounds: 2^-9 each, averaged over the head.
        ASSERT_NEAR(lse[i], expected.lse[i], (std::is_same_v<T, bf16> ? 3e-2 : 3e-5)) << "token and head " << i;
      }
    }
    // Rows that no chunk names keep what they held.
    auto final_k = to_doubles(p.running_k), final_v = to_doubles(p.running_v);
    for (const RatChunk& c : p.layout.table) {
      for (int64_t i = 0; c.to >= 0 && i < p.width; ++i) {
        const auto at = static_cast<std::size_t>(c.to * p.width + i);
        final_k[at] = expected.final_k[at], final_v[at] = expected.final_v[at];
      }
    }
    EXPECT_LE(relative_rms_error(to_doubles(o.running_k.pull()), final_k), 50 * rounding<float>());
    EXPECT_LE(relative_rms_error(to_doubles(o.running_v.pull()), final_v), 50 * rounding<float>());

    const int64_t width = p.shape.width(), D = p.width, kv = p.shape.groups * p.shape.dim;
    const auto d_proj = o.d_proj.host().values();
    const std::pair<const char*, std::pair<int64_t, int64_t>> streams[] = {
        {"z", {0, D}}, {"v", {D, D}}, {"g", {2 * D, D}}, {"q", {3 * D, kv}}, {"k", {3 * D + kv, kv}}};
    for (const auto& [name, range] : streams) {
      const auto want = columns(gradients.d_proj, width, range.first, range.second);
      if (rms(want) < 1e-9) continue;  // one entry alone: a softmax without gradient
      EXPECT_LE(relative_rms_error(columns(d_proj, width, range.first, range.second), want), backward_bound<T>) << name;
    }
    EXPECT_LE(relative_rms_error(o.d_bias.host().values(), gradients.d_gate_bias), backward_bound<T>);
    EXPECT_LE(relative_rms_error(to_doubles(o.d_ends_k.pull()), gradients.d_ends_k), backward_bound<T>);
    EXPECT_LE(relative_rms_error(to_doubles(o.d_ends_v.pull()), gradients.d_ends_v), backward_bound<T>);
    EXPECT_LE(relative_rms_error(to_doubles(o.d_running_k.pull()), gradients.d_running_k), backward_bound<T>);
    EXPECT_LE(relative_rms_error(to_doubles(o.d_running_v.pull()), gradients.d_running_v), backward_bound<T>);

    EXPECT_TRUE(o.out.host().padding_untouched());
    EXPECT_TRUE(o.d_proj.host().padding_untouched());
    EXPECT_TRUE(o.same(again)) << "another run gave other bits";
    auto inference = run_forward(p, s.padding);
    EXPECT_TRUE(inference.out.host() == o.out.host()) << "without y and lse";
    EXPECT_LE(relative_rms_error(to_doubles(inference.running_k.pull()), final_k), 50 * rounding<float>());
    EXPECT_LE(relative_rms_error(to_doubles(inference.running_v.pull()), final_v), 50 * rounding<float>());
  }
}

// A decoding step takes a kernel of its own: one token of each sequence, at any place in its chunk, with few and many
// ends. Long pasts of few sequences are cut into parts; many sequences take small blocks.
TYPED_TEST(RatCuda, AStepIsTheFormula) {
  RATTAN_NEEDS_GPU();
  using T = TypeParam;
  const std::vector<Shape> steps = {
      {4, 2, 128, 16, 0, true, {{0, 0, 1, 0}, {5, 7, 1, 0}, {300, 15, 1, 0}, {1, 1, 1, 0}}},
      {3, 1, 64, 4, 8, true, {{2, 0, 1, 0}, {90, 3, 1, 0}}},
      {2, 2, 33, 8, 0, false, {{7, 2, 1, 0}}},
      {2, 1, 256, 16, 0, true, {{40, 9, 1, 0}, {0, 3, 1, 0}}},
      {2, 1, 128, 16, 0, true, {{3000, 4, 1, 0}}},
      {6, 3, 20, 1, 1, true, {{70, 0, 1, 0}, {1, 0, 1, 0}}},
      {4, 2, 128, 16, 0, true, std::vector<Sequence>(70, {150, 3, 1, 0})},
      {4, 2, 128, 16, 0, true, std::vector<Sequence>(150, {70, 7, 1, 0})},
      {30, 3, 24, 16, 0, true, std::vector<Sequence>(20, {33, 0, 1, 0})},
  };
  uint64_t seed = 5050;
  for (const Shape& s : steps) {
    SCOPED_TRACE(::testing::Message() << "seed " << seed << ", " << s.sequences.size() << " sequences, " << s.heads
                                      << " heads of " << s.dim);
    Problem<T> p(s, Rng(seed++));
    const auto expected = ref::rat_forward(p.reference());
    p.shape.tokens -= 2;  // the rows after the last sequence are padding, which a step has not
    Output<T> o(p, s.padding);
    const Inputs<T> in(p);
    RatForward<T> f = forward_call(p, in, o);
    f.step = true;
    DeviceMemory scratch(cuda::rat_forward_scratch_bytes(f));
    cuda::rat_forward(f, scratch.data(), nullptr);
    o.pull();
    auto first = [&](std::vector<double> values, int64_t width) {
      values.resize(static_cast<std::size_t>(p.shape.tokens * width));
      return values;
    };
    EXPECT_LE(relative_rms_error(o.out.host().values(), first(expected.out, p.width)), forward_bound<T>);
    EXPECT_LE(relative_rms_error(o.ends_k.host().values(), expected.ends_k), forward_bound<T>);
    EXPECT_LE(relative_rms_error(o.ends_v.host().values(), expected.ends_v), forward_bound<T>);
    const auto lse = o.lse.host().values();
    for (std::size_t i = 0; i < lse.size(); ++i) ASSERT_NEAR(lse[i], expected.lse[i], 2e-5) << "row and head " << i;
    EXPECT_LE(relative_rms_error(to_doubles(o.running_k.pull()), expected.final_k), 50 * rounding<float>());
    EXPECT_LE(relative_rms_error(to_doubles(o.running_v.pull()), expected.final_v), 50 * rounding<float>());
    EXPECT_TRUE(o.out.host().padding_untouched());
  }
}

TEST(RatStepTable, NamesTheChunkOfEachToken) {
  RATTAN_NEEDS_GPU();
  const std::vector<int32_t> rows = {4, 0, 7, 1}, positions = {0, 15, 16, 100};
  const DeviceVector<int32_t> device_rows(rows), device_positions(positions);
  DeviceVector<RatChunk> table(std::vector<RatChunk>(4));
  cuda::RatStepTable a;
  a.tokens = 4, a.chunk = 16, a.ends = 9;
  a.rows = device_rows.data(), a.positions = device_positions.data(), a.table = table.data();
  cuda::rat_step_table(a, nullptr);
  const std::vector<RatChunk>& got = table.pull();
  for (int32_t i = 0; i < 4; ++i) {
    const RatChunk& c = got[static_cast<std::size_t>(i)];
    const int32_t row = rows[static_cast<std::size_t>(i)], position = positions[static_cast<std::size_t>(i)];
    EXPECT_TRUE(c.begin == i && c.end == i + 1 && c.first == 9 * row && c.slot == c.first + position / 16) << i;
    EXPECT_TRUE(c.position == position / 16 && c.from == (position % 16 == 0 ? -1 : row) && c.to == row) << i;
  }
}

TYPED_TEST(RatCuda, PaddingTokensGiveZeroAndAreInert) {
  RATTAN_NEEDS_GPU();
  using T = TypeParam;
  const Shape s{4, 2, 64, 16, 0, true, {{0, 0, 70, 5}, {0, 0, 40, 9}}};
  auto with = [&](double filler) {
    Problem<T> p(s, Rng(5100));
    std::vector<bool> real(static_cast<std::size_t>(p.shape.tokens));
    for (const RatChunk& c : p.layout.table) {
      for (int32_t n = c.begin; n < c.end; ++n) real[static_cast<std::size_t>(n)] = true;
    }
    Rows<T> proj = p.proj.host(), d_out = p.d_out.host();
    for (int64_t n = 0; n < p.shape.tokens; ++n) {
      if (real[static_cast<std::size_t>(n)]) continue;
      for (int64_t c = 0; c < p.shape.width(); ++c) proj.at(n, c) = from_double<T>(filler);
      for (int64_t c = 0; c < p.width; ++c) d_out.at(n, c) = from_double<T>(filler);
    }
    cudaMemcpy(p.proj.data(), proj.data(), static_cast<std::size_t>(p.shape.tokens * p.shape.width()) * sizeof(T),
               cudaMemcpyHostToDevice);
    cudaMemcpy(p.d_out.data(), d_out.data(), static_cast<std::size_t>(p.shape.tokens * p.width) * sizeof(T),
               cudaMemcpyHostToDevice);
    return run(p, 0);
  };
  auto zeros = with(0), nans = with(NAN);
  EXPECT_TRUE(zeros.same(nans));
  EXPECT_EQ(to_double(nans.out.host().at(0, 0)), 0);
  EXPECT_EQ(to_double(nans.d_proj.host().at(0, 0)), 0);
  EXPECT_EQ(nans.lse.host().at(0, 0), -INFINITY);
}

TYPED_TEST(RatCuda, SizesMayBeZero) {
  RATTAN_NEEDS_GPU();
  using T = TypeParam;
  cuda::rat_forward(RatForward<T>{}, nullptr, nullptr);
  cuda::rat_backward(RatBackward<T>{}, nullptr, nullptr);
  const Problem<T> p(Shape{2, 1, 16, 4, 0, true, {}}, Rng(5200));  // padding alone
  auto o = run(p, 0);
  for (double x : o.out.host().values()) EXPECT_EQ(x, 0);
  for (double x : o.d_proj.host().values()) EXPECT_EQ(x, 0);
  for (double x : o.d_bias.host().values()) EXPECT_EQ(x, 0);
}

TEST(RatCudaLarge, OffsetsBeyond31Bits) {
  RATTAN_NEEDS_GPU();
  // Sequences of 512 tokens, all alike; even [N, D] has more than 2^31 elements.
  constexpr int64_t kTokens = 512, kHeads = 16, kDim = 128, kGroups = 2, kTimes = 2049, D = kHeads * kDim;
  RatShape shape{kTokens * kTimes, kHeads, kGroups, kDim, kTokens / 16 * kTimes, kTokens / 16 * kTimes, 16};
  const int64_t bytes = shape.tokens * (2 * shape.width() * 2 + 3 * D * 2 + kHeads * 4) + shape.ends * D * 12 +
                        cuda::rat_backward_scratch_bytes(shape);
  if (memory_is_short(bytes + (int64_t{1} << 30))) GTEST_SKIP() << "not enough device memory";
  Rng rng(5300);
  std::vector<RatChunk> chunks;
  for (int32_t s = 0; s < kTimes; ++s) {
    for (int32_t c = 0; c < 32; ++c) {
      const int32_t begin = s * 512 + c * 16;
      chunks.push_back({begin, begin + 16, s * 32, s * 32 + c, c, -1, -1});
    }
  }
  DeviceVector<RatChunk> table(chunks);
  DeviceVector<float> bias(random_floats(rng, D));
  std::vector<float> cos(32 * 64), sin(32 * 64);
  rope_table(32, kDim, 10000, cos.data(), sin.data());
  DeviceVector<float> cos_d(cos), sin_d(sin);
  Repeated<bf16> proj(rng, kTokens * shape.width(), kTimes), out(kTokens * D, kTimes);
  DeviceRows<bf16> ends_k(shape.ends, D), ends_v(shape.ends, D);
  DeviceMemory lse(shape.tokens * kHeads * 4);
  RatForward<bf16> f;
  f.shape = shape, f.table = table.data(), f.proj = {proj.data(), shape.width()}, f.gate_bias = bias.data();
  f.cos = cos_d.data(), f.sin = sin_d.data(), f.ends_k = ends_k.heads(kDim), f.ends_v = ends_v.heads(kDim);
  f.out = {out.data(), D}, f.lse = static_cast<float*>(lse.data());
  DeviceMemory scratch(std::max(cuda::rat_forward_scratch_bytes(f), cuda::rat_backward_scratch_bytes(shape)));
  cuda::rat_forward(f, scratch.data(), nullptr);
  out.expect_last_is_first("out");
  Repeated<bf16> d_proj(kTokens * shape.width(), kTimes);
  DeviceMemory d_ends_k(shape.ends * D * 4), d_ends_v(shape.ends * D * 4);
  cudaMemset(d_ends_k.data(), 0, static_cast<std::size_t>(d_ends_k.bytes()));
  cudaMemset(d_ends_v.data(), 0, static_cast<std::size_t>(d_ends_v.bytes()));
  DeviceRows<float> d_bias(1, D);
  RatBackward<bf16> b;
  b.shape = shape, b.table = table.data(), b.proj = f.proj, b.gate_bias = bias.data(), b.cos = f.cos, b.sin = f.sin;
  b.ends_k = ends_k.heads_view(kDim), b.ends_v = ends_v.heads_view(kDim);
  b.out = {out.data(), D}, b.lse = f.lse, b.d_out = {out.data(), D};  // any gradient will do
  b.d_proj = {d_proj.data(), shape.width()}, b.d_gate_bias = d_bias.data();
  b.d_ends_k = {static_cast<float*>(d_ends_k.data()), D, kDim};
  b.d_ends_v = {static_cast<float*>(d_ends_v.data()), D, kDim};
  cuda::rat_backward(b, scratch.data(), nullptr);
  d_proj.expect_last_is_first("d_proj");
}

}  // namespace rattan::kernels::rat_cuda_test_file
