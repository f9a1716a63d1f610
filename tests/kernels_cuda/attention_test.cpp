// The CUDA interval attention against its float64 reference.
#include "rattan/kernels/attention.h"

#include <array>

#include "rattan/base/error.h"
#include "rattan/kernels/cuda/interval_attention.h"
#include "rattan/kernels/ref/attention_ref.h"
#include "tests/kernels_cuda/cuda_test_util.h"

namespace rattan::kernels::attention_cuda_test_file {

template <class T>
class AttentionCuda : public ::testing::Test {};
using Types = ::testing::Types<float, bf16>;
TYPED_TEST_SUITE(AttentionCuda, Types);

// bf16: probabilities and score gradients are rounded before their products, outputs after; gradients also inherit
// the rounding of the saved output through delta, where terms cancel. fp32: sums of up to 256 products and of all keys.
template <class T>
constexpr double forward_bound = std::is_same_v<T, bf16> ? 2 * rounding<bf16>() : 50 * rounding<float>();
template <class T>
constexpr double backward_bound = std::is_same_v<T, bf16> ? 4 * rounding<bf16>() : 100 * rounding<float>();

template <class T>
void backward(const AttentionBackward<T>& b) {
  DeviceMemory scratch(cuda::attention_backward_scratch_bytes(b));
  cuda::attention_backward(b, scratch.data(), nullptr);
}

enum class Intervals { causal, window, packed, random, steps };

struct Shape {
  int64_t queries, keys, heads, kv_heads, dim, padding;
  Intervals intervals;
};

// begin and end of each query row. The packed rows leave padding (empty intervals) between and after segments.
void make_intervals(const Shape& s, Rng& rng, std::vector<int32_t>& begin, std::vector<int32_t>& end) {
  const auto below = [&](int64_t n) { return static_cast<int32_t>(rng.below(static_cast<uint64_t>(n))); };
  int32_t start = 0, stop = 0;
  for (int64_t i = 0; i < s.queries; ++i) {
    const auto row = static_cast<int32_t>(i);
    const auto past = static_cast<int32_t>(s.keys - s.queries);
    switch (s.intervals) {
      case Intervals::causal:
        begin.push_back(0), end.push_back(past + row + 1);
        break;
      case Intervals::window:
        begin.push_back(std::max(0, past + row - 20)), end.push_back(past + row + 1);
        break;
      case Intervals::packed:
        if (row >= stop + 3) start = row, stop = row + 1 + below(90);
        begin.push_back(row < stop ? start : 0), end.push_back(row < stop ? row + 1 : 0);
        break;
      case Intervals::random: {
        const int32_t a = below(s.keys + 1), b = below(s.keys + 1);
        begin.push_back(std::min(a, b)), end.push_back(std::max(a, b));
        break;
      }
      case Intervals::steps:
        begin.push_back(static_cast<int32_t>(s.keys / s.queries * i));
        end.push_back(begin.back() + below(s.keys / s.queries + 1));
        break;
    }
  }
}

// The last one has so many tiles that blocks take several heads, the last block fewer.
const Shape kShapes[] = {
    {1, 1, 1, 1, 1, 0, Intervals::causal},           {70, 70, 2, 2, 16, 0, Intervals::causal},
    {130, 200, 4, 2, 64, 8, Intervals::causal},      {200, 200, 3, 1, 33, 1, Intervals::packed},
    {150, 150, 2, 2, 128, 0, Intervals::packed},     {100, 100, 2, 1, 128, 0, Intervals::window},
    {65, 90, 2, 2, 80, 0, Intervals::random},        {40, 300, 2, 2, 256, 0, Intervals::random},
    {33, 70, 1, 1, 200, 3, Intervals::causal},       {5, 400, 4, 2, 128, 0, Intervals::steps},
    {3, 90, 2, 2, 64, 1, Intervals::steps},          {7, 200, 2, 2, 20, 0, Intervals::steps},
    {2, 100, 2, 1, 256, 0, Intervals::steps},        {2200, 2200, 1, 1, 32, 0, Intervals::window},
    {515, 515, 4, 2, 128, 8, Intervals::causal},     {300, 700, 2, 1, 128, 0, Intervals::random},
    {700, 700, 2, 2, 128, 0, Intervals::packed},     {400, 900, 2, 2, 64, 8, Intervals::causal},
    {333, 333, 2, 1, 104, 0, Intervals::window},     {1500, 90, 2, 2, 64, 0, Intervals::random},
    {20350, 20350, 10, 5, 16, 0, Intervals::window},
};

template <class T>
void check(const Shape& s, uint64_t seed) {
  SCOPED_TRACE(::testing::Message() << "seed " << seed << ", " << s.queries << " queries, " << s.keys << " keys, "
                                    << s.heads << "/" << s.kv_heads << " heads of " << s.dim);
  Rng rng(seed);
  ref::Attention problem{s.queries, s.keys, s.heads, s.kv_heads, s.dim, 1 / std::sqrt(static_cast<double>(s.dim)),
                         {},        {},     {},      {},         {}};
  make_intervals(s, rng, problem.begin, problem.end);
  auto q = normal_on_device<T>(rng, s.queries, s.heads * s.dim, s.padding, 1.5);
  auto k = normal_on_device<T>(rng, s.keys, s.kv_heads * s.dim, s.padding);
  auto v = normal_on_device<T>(rng, s.keys, s.kv_heads * s.dim, s.padding);
  auto d_o = normal_on_device<T>(rng, s.queries, s.heads * s.dim, s.padding);
  problem.q = q.host().values(), problem.k = k.host().values(), problem.v = v.host().values();
  const auto expected = ref::attention_forward(problem);
  // Where the number of queries is a multiple of 5 the log-sum-exp has a gradient, too.
  auto d_lse = normal_on_device<float>(rng, s.queries, s.heads, 0);
  const bool merges = s.queries % 5 == 0;
  const auto gradients = ref::attention_backward(problem, expected, d_o.host().values(),
                                                 merges ? d_lse.host().values() : std::vector<double>());

  DeviceVector<int32_t> begin(problem.begin), end(problem.end);
  DeviceRows<T> o(s.queries, s.heads * s.dim, s.padding), dq(s.queries, s.heads * s.dim, s.padding);
  DeviceRows<T> dk(s.keys, s.kv_heads * s.dim, s.padding), dv(s.keys, s.kv_heads * s.dim, s.padding);
  DeviceRows<float> lse(s.queries, s.heads);
  AttentionForward<T> f;
  f.queries = s.queries, f.keys = s.keys, f.heads = s.heads, f.kv_heads = s.kv_heads, f.dim = s.dim;
  f.scale = static_cast<float>(problem.scale), f.begin = begin.data(), f.end = end.data();
  f.q = q.heads_view(s.dim), f.k = k.heads_view(s.dim), f.v = v.heads_view(s.dim);
  f.o = o.heads(s.dim), f.lse = lse.data();
  cuda::attention_forward(f, nullptr);
  EXPECT_LE(relative_rms_error(o.pull().values(), expected.o), forward_bound<T>);
  const auto lse_values = lse.pull().values();
  for (std::size_t i = 0; i < lse_values.size(); ++i) {
    if (std::isinf(expected.lse[i])) {
      ASSERT_EQ(lse_values[i], expected.lse[i]);
    } else {
      ASSERT_NEAR(lse_values[i], expected.lse[i], 2e-5) << "row and head " << i;
    }
  }
  EXPECT_TRUE(o.host().padding_untouched());

  AttentionBackward<T> b;
  b.queries = s.queries, b.keys = s.keys, b.heads = s.heads, b.kv_heads = s.kv_heads, b.dim = s.dim;
  b.scale = f.scale, b.begin = f.begin, b.end = f.end, b.q = f.q, b.k = f.k, b.v = f.v, b.lse = lse.data();
  b.o = o.heads_view(s.dim), b.d_o = d_o.heads_view(s.dim);
  b.d_lse = merges ? d_lse.data() : nullptr;
  b.dq = dq.heads(s.dim), b.dk = dk.heads(s.dim), b.dv = dv.heads(s.dim);
  backward(b);
  if (s.keys > 1) {  // a softmax over one key has no gradient but rounding errors
    EXPECT_LE(relative_rms_error(dq.pull().values(), gradients.dq), backward_bound<T>);
    EXPECT_LE(relative_rms_error(dk.pull().values(), gradients.dk), backward_bound<T>);
  }
  EXPECT_LE(relative_rms_error(dv.pull().values(), gradients.dv), backward_bound<T>);
  EXPECT_TRUE(dq.host().padding_untouched() && dk.host().padding_untouched() && dv.host().padding_untouched());

  const Rows<T> first[] = {o.pull(), dq.pull(), dk.pull(), dv.pull()};
  cuda::attention_forward(f, nullptr);
  backward(b);
  EXPECT_TRUE(o.pull() == first[0] && dq.pull() == first[1] && dk.pull() == first[2] && dv.pull() == first[3])
      << "another run gave other bits";
}

TYPED_TEST(AttentionCuda, IsTheFormulaAndItsGradient) {
  RATTAN_NEEDS_GPU();
  uint64_t seed = 4000;
  for (const Shape& shape : kShapes) check<TypeParam>(shape, seed++);
}

// An own entry is one more key that its row alone sees: from the reference's output and log-sum-exp follow those with
// it. Every seventh row has none (score -inf) and a NaN for a value. Heads share `q_heads` queries.
template <class T>
void check_own_entries(const Shape& s, int64_t q_heads, uint64_t seed) {
  SCOPED_TRACE(::testing::Message() << "seed " << seed << ", " << s.queries << " queries, " << s.keys << " keys of "
                                    << s.dim);
  Rng rng(seed);
  ref::Attention problem{s.queries, s.keys, s.heads, s.heads, s.dim, 1 / std::sqrt(static_cast<double>(s.dim)),
                         {},        {},     {},      {},      {}};
  make_intervals(s, rng, problem.begin, problem.end);
  const int64_t width = s.heads * s.dim;
  auto q = normal_on_device<T>(rng, s.queries, q_heads * s.dim, 0, 1.5), k = normal_on_device<T>(rng, s.keys, width, 0);
  auto v = normal_on_device<T>(rng, s.keys, width, 0), gate = normal_on_device<T>(rng, s.queries, width, 0);
  const auto queries = q.host().values();
  for (int64_t i = 0; i < s.queries * s.heads; ++i) {
    const auto row = queries.begin() + (i / s.heads * q_heads + i % s.heads % q_heads) * s.dim;
    problem.q.insert(problem.q.end(), row, row + s.dim);
  }
  problem.k = k.host().values(), problem.v = v.host().values();
  const auto others = ref::attention_forward(problem);
  auto score = Rows<float>::normal(rng, s.queries, s.heads);
  auto value = Rows<T>::normal(rng, s.queries, width);
  const auto gates = gate.host().values();
  std::vector<double> o, lse;
  for (int64_t i = 0; i < s.queries; ++i) {
    for (int64_t h = 0; h < s.heads; ++h) {
      if (i % 7 == 0) score.at(i, h) = -INFINITY;
      const double own = score.at(i, h), rest = others.lse[static_cast<std::size_t>(i * s.heads + h)];
      const double total = std::exp(own) + std::exp(rest);
      lse.push_back(std::log(total));
      for (int64_t c = 0; c < s.dim; ++c) {
        const auto at = static_cast<std::size_t>(i * width + h * s.dim + c);
        const double mean = std::exp(own) * to_double(value.at(i, h * s.dim + c)) + std::exp(rest) * others.o[at];
        o.push_back(total > 0 ? mean / total / (1 + std::exp(-gates[at])) : 0);
        if (i % 7 == 0) value.at(i, h * s.dim + c) = from_double<T>(NAN);
      }
    }
  }
  DeviceVector<int32_t> begin(problem.begin), end(problem.end);
  DeviceRows<float> score_d(score, s.queries), lse_d(s.queries, s.heads);
  DeviceRows<T> value_d(value, s.queries), o_d(s.queries, width);
  cuda::IntervalForward<T> f;
  f.queries = s.queries, f.keys = s.keys, f.heads = f.kv_heads = s.heads, f.q_heads = q_heads, f.dim = s.dim;
  f.scale = static_cast<float>(problem.scale), f.begin = begin.data(), f.end = end.data(), f.lse = lse_d.data();
  f.q = q.heads_view(s.dim), f.k = k.heads_view(s.dim), f.v = v.heads_view(s.dim), f.o = o_d.heads(s.dim);
  f.own = {score_d.data(), value_d.heads_view(s.dim), gate.heads_view(s.dim)};
  cuda::interval_attention_forward(f, nullptr);
  EXPECT_LE(relative_rms_error(o_d.pull().values(), o), forward_bound<T>);
  const auto lse_values = lse_d.pull().values();
  for (std::size_t i = 0; i < lse.size(); ++i) {
    if (std::isinf(lse[i])) {
      ASSERT_EQ(lse_values[i], lse[i]);
    } else {
      ASSERT_NEAR(lse_values[i], lse[i], 2e-5) << "row and head " << i;
    }
  }
}

TYPED_TEST(AttentionCuda, AnOwnEntryIsOneMoreKey) {
  RATTAN_NEEDS_GPU();
  uint64_t seed = 4050;
  for (const Shape& shape : {Shape{300, 300, 6, 6, 128, 0, Intervals::packed},
                             {200, 500, 6, 6, 64, 0, Intervals::random},
                             {130, 20, 6, 6, 128, 0, Intervals::random},
                             {70, 90, 6, 6, 33, 0, Intervals::causal},
                             {150, 150, 6, 6, 80, 0, Intervals::packed},
                             {22600, 22600, 6, 6, 16, 0, Intervals::window},
                             {5, 400, 6, 6, 128, 0, Intervals::steps}}) {
    for (int64_t q_heads : {1, 2, 6}) {
      // So many tiles are for blocks that take several heads, which have queries of their own.
      if (shape.queries < 1000 || q_heads == shape.heads) check_own_entries<TypeParam>(shape, q_heads, seed++);
    }
  }
}

// Gradients in fp32, added to what is there for keys and values; `q_heads` queries are shared between heads. Both ways
// to make them, where there are two.
void check_sums(const Shape& s, int64_t q_heads, uint64_t seed) {
  SCOPED_TRACE(::testing::Message() << "seed " << seed << ", " << s.queries << " queries, " << s.keys << " keys, "
                                    << s.heads << "/" << q_heads << "/" << s.kv_heads << " heads of " << s.dim);
  Rng rng(seed);
  ref::Attention problem{s.queries, s.keys, s.heads, s.kv_heads, s.dim, 1 / std::sqrt(static_cast<double>(s.dim)),
                         {},        {},     {},      {},         {}};
  make_intervals(s, rng, problem.begin, problem.end);
  auto q = normal_on_device<bf16>(rng, s.queries, q_heads * s.dim, s.padding, 1.5);
  auto k = normal_on_device<bf16>(rng, s.keys, s.kv_heads * s.dim, s.padding);
  auto v = normal_on_device<bf16>(rng, s.keys, s.kv_heads * s.dim, s.padding);
  auto d_o = normal_on_device<bf16>(rng, s.queries, s.heads * s.dim, s.padding);
  const auto shared = q.host().values();
  for (int64_t i = 0; i < s.queries; ++i) {
    for (int64_t h = 0; h < s.heads; ++h) {
      const auto from = shared.begin() + (i * q_heads + h % q_heads) * s.dim;
      problem.q.insert(problem.q.end(), from, from + s.dim);
    }
  }
  problem.k = k.host().values(), problem.v = v.host().values();
  const auto expected = ref::attention_forward(problem);
  const auto d_o_values = d_o.host().values();
  const auto gradients = ref::attention_backward(problem, expected, d_o_values, {});
  const auto dk_before = Rows<float>::normal(rng, s.keys, s.kv_heads * s.dim, s.padding, 0.1),
             dv_before = Rows<float>::normal(rng, s.keys, s.kv_heads * s.dim, s.padding, 0.1);
  std::vector<double> dq(s.queries * q_heads * s.dim), dk = dk_before.values(), dv = dv_before.values();
  for (std::size_t i = 0; i < gradients.dq.size(); ++i) {
    const int64_t width = s.heads * s.dim, at = static_cast<int64_t>(i);
    dq[at / width * q_heads * s.dim + at % width / s.dim % q_heads * s.dim + at % s.dim] += gradients.dq[i];
  }
  for (std::size_t i = 0; i < dk.size(); ++i) dk[i] += gradients.dk[i], dv[i] += gradients.dv[i];

  std::vector<float> lse, delta;
  for (int64_t i = 0; i < s.queries * s.heads; ++i) {
    double sum = 0;
    for (int64_t c = 0; c < s.dim; ++c) sum += d_o_values[i * s.dim + c] * expected.o[i * s.dim + c];
    delta.push_back(static_cast<float>(sum)), lse.push_back(static_cast<float>(expected.lse[i]));
  }
  DeviceVector<int32_t> begin(problem.begin), end(problem.end);
  DeviceVector<float> lse_d(lse), delta_d(delta);
  cuda::IntervalBackward<bf16, float> b;
  b.queries = s.queries, b.keys = s.keys, b.heads = s.heads, b.q_heads = q_heads, b.kv_heads = s.kv_heads;
  b.dim = s.dim, b.scale = static_cast<float>(problem.scale), b.begin = begin.data(), b.end = end.data();
  b.q = q.heads_view(s.dim), b.k = k.heads_view(s.dim), b.v = v.heads_view(s.dim), b.d_o = d_o.heads_view(s.dim);
  b.o = b.d_o, b.lse = lse_d.data(), b.delta = delta_d.data(), b.accumulate = true;
  std::vector<Rows<float>> first;
  for (int run = 0; run < 3; ++run) {
    b.passes = run == 0 ? cuda::BackwardPasses::two : cuda::BackwardPasses::joint;
    DeviceRows<float> dq_d(s.queries, q_heads * s.dim, s.padding), dk_d(dk_before, s.keys), dv_d(dv_before, s.keys);
    b.dq = dq_d.heads(s.dim), b.dk = dk_d.heads(s.dim), b.dv = dv_d.heads(s.dim);
    DeviceMemory scratch(cuda::interval_backward_scratch_bytes(b));
    b.scratch = scratch.data();
    cuda::interval_attention_backward(b, nullptr);
    const Rows<float> now[] = {dq_d.pull(), dk_d.pull(), dv_d.pull()};
    if (run < 2) {
      SCOPED_TRACE(run > 0 ? "one pass" : "two passes");
      first.assign(now, now + 3);
      EXPECT_LE(relative_rms_error(now[0].values(), dq), backward_bound<bf16>);
      EXPECT_LE(relative_rms_error(now[1].values(), dk), backward_bound<bf16>);
      EXPECT_LE(relative_rms_error(now[2].values(), dv), backward_bound<bf16>);
      EXPECT_TRUE(now[0].padding_untouched() && now[1].padding_untouched() && now[2].padding_untouched());
    }
    for (int i = 0; i < 3; ++i) EXPECT_TRUE(now[i] == first[i]) << "run " << run << " gave other bits, output " << i;
  }
}

TEST(AttentionCudaSums, SharedQueriesAndAccumulatedKeys) {
  RATTAN_NEEDS_GPU();
  uint64_t seed = 4070;
  for (const Shape& shape : {Shape{300, 300, 6, 6, 128, 0, Intervals::packed},
                             {400, 300, 6, 6, 128, 8, Intervals::random},
                             {130, 20, 6, 2, 128, 0, Intervals::random},
                             {400, 400, 6, 3, 104, 0, Intervals::causal},
                             {450, 450, 6, 6, 80, 0, Intervals::window},
                             {700, 700, 6, 6, 128, 0, Intervals::packed},
                             {70, 70, 6, 6, 72, 0, Intervals::causal},
                             {300, 300, 6, 2, 64, 0, Intervals::causal},
                             {5, 400, 6, 6, 128, 0, Intervals::steps}}) {
    for (int64_t q_heads : {1, 2, 6}) check_sums(shape, q_heads, seed++);
  }
}

// Many blocks of keys meet in each tile of queries: none may wait forever, and runs must agree bit for bit.
TEST(AttentionCudaSums, LongRowsRepeatTheirBits) {
  RATTAN_NEEDS_GPU();
  constexpr int64_t kQueries = 4096, kHeads = 16, kDim = 128, kWidth = kHeads * kDim, kBlock = 1 << 20;
  Rng rng(4090);
  Repeated<bf16> q(rng, kBlock, kQueries * kWidth / kBlock), k(rng, kBlock, kQueries * kWidth / kBlock);
  Repeated<bf16> v(rng, kBlock, kQueries * kWidth / kBlock), d_o(rng, kBlock, kQueries * kWidth / kBlock);
  DeviceVector<float> lse(std::vector<float>(kQueries * kHeads, 8.0f)), delta(std::vector<float>(kQueries * kHeads));
  for (const auto& [keys, q_heads] : {std::pair<int64_t, int64_t>{256, 2}, {1024, 1}, {4096, 16}, {4096, 4}}) {
    SCOPED_TRACE(::testing::Message() << keys << " keys, queries of " << q_heads << " heads");
    std::vector<int32_t> begin(kQueries), end;
    for (int64_t i = 0; i < kQueries; ++i) end.push_back(static_cast<int32_t>(i * keys / kQueries));
    DeviceVector<int32_t> begin_d(begin), end_d(end);
    cuda::IntervalBackward<bf16, float> b;
    b.queries = kQueries, b.keys = keys, b.heads = b.kv_heads = kHeads, b.q_heads = q_heads, b.dim = kDim;
    b.scale = 0.1f, b.begin = begin_d.data(), b.end = end_d.data(), b.lse = lse.data(), b.delta = delta.data();
    b.q = {q.data(), q_heads * kDim, kDim}, b.k = {k.data(), kWidth, kDim}, b.v = {v.data(), kWidth, kDim};
    b.o = b.d_o = {d_o.data(), kWidth, kDim};
    const auto run = [&](cuda::BackwardPasses passes) {
      b.passes = passes;
      DeviceMemory scratch(cuda::interval_backward_scratch_bytes(b));
      DeviceRows<float> dq(kQueries, q_heads * kDim), dk(keys, kWidth), dv(keys, kWidth);
      b.scratch = scratch.data(), b.dq = dq.heads(kDim), b.dk = dk.heads(kDim), b.dv = dv.heads(kDim);
      cuda::interval_attention_backward(b, nullptr);
      return std::array<Rows<float>, 3>{dq.pull(), dk.pull(), dv.pull()};
    };
    const auto two_passes = run(cuda::BackwardPasses::two), first = run(cuda::BackwardPasses::joint);
    for (int i = 0; i < 3; ++i) {
      EXPECT_LE(relative_rms_error(first[i].values(), two_passes[i].values()), backward_bound<bf16>) << i;
    }
    for (int times = 0; times < 3; ++times) {
      const auto again = run(cuda::BackwardPasses::joint);
      for (int i = 0; i < 3; ++i) EXPECT_TRUE(again[i] == first[i]) << "another run gave other bits, output " << i;
    }
  }
}

// Rows that see nothing and keys that nobody sees may hold anything, NaN too.
template <class T>
void check_padding(int64_t tokens, int64_t dim, bool causal) {
  SCOPED_TRACE(::testing::Message() << tokens << " tokens of " << dim << (causal ? ", causal" : ", whole segments"));
  Rng rng(4100);
  std::vector<int32_t> begin, end;
  for (int32_t i = 0; i < tokens; ++i) {
    const bool real = i % 50 < 37;
    const auto last = static_cast<int32_t>(causal ? i : std::min<int64_t>(i / 50 * 50 + 36, tokens - 1));
    begin.push_back(real ? i / 50 * 50 : 0), end.push_back(real ? last + 1 : 0);
  }
  Rows<T> inputs[4] = {{0, 0}, {0, 0}, {0, 0}, {0, 0}};
  for (Rows<T>& x : inputs) x = Rows<T>::normal(rng, tokens, dim);
  auto run = [&](double filler) {
    for (Rows<T>& x : inputs) {
      for (int64_t i = 0; i < tokens; ++i) {
        for (int64_t c = 0; c < dim && i % 50 >= 37; ++c) x.at(i, c) = from_double<T>(filler);
      }
    }
    DeviceRows<T> q(inputs[0], tokens), k(inputs[1], tokens), v(inputs[2], tokens), d_o(inputs[3], tokens);
    DeviceRows<T> out[4] = {{tokens, dim}, {tokens, dim}, {tokens, dim}, {tokens, dim}};
    DeviceRows<float> lse(tokens, 1);
    DeviceVector<int32_t> begin_d(begin), end_d(end);
    AttentionForward<T> f;
    f.queries = f.keys = tokens, f.heads = f.kv_heads = 1, f.dim = dim, f.scale = 0.125f;
    f.begin = begin_d.data(), f.end = end_d.data(), f.lse = lse.data();
    f.q = q.heads_view(dim), f.k = k.heads_view(dim), f.v = v.heads_view(dim), f.o = out[0].heads(dim);
    cuda::attention_forward(f, nullptr);
    AttentionBackward<T> b;
    b.queries = b.keys = tokens, b.heads = b.kv_heads = 1, b.dim = dim, b.scale = 0.125f;
    b.begin = f.begin, b.end = f.end, b.lse = lse.data(), b.q = f.q, b.k = f.k, b.v = f.v;
    b.o = out[0].heads_view(dim), b.d_o = d_o.heads_view(dim);
    b.dq = out[1].heads(dim), b.dk = out[2].heads(dim), b.dv = out[3].heads(dim);
    backward(b);
    return std::array<Rows<T>, 4>{out[0].pull(), out[1].pull(), out[2].pull(), out[3].pull()};
  };
  const auto zeros = run(0), nans = run(NAN);
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(zeros[i] == nans[i]) << "output " << i;
}

TYPED_TEST(AttentionCuda, PaddingIsInert) {
  RATTAN_NEEDS_GPU();
  for (bool causal : {true, false}) {
    check_padding<TypeParam>(100, 64, causal);
    check_padding<TypeParam>(700, 128, causal);
  }
}

TYPED_TEST(AttentionCuda, SizesMayBeZero) {
  RATTAN_NEEDS_GPU();
  using T = TypeParam;
  cuda::attention_forward(AttentionForward<T>{}, nullptr);
  backward(AttentionBackward<T>{});
  // Queries without any key: o = 0, lse = -inf.
  DeviceRows<T> q(3, 16), o(3, 16);
  DeviceRows<float> lse(3, 1);
  DeviceVector<int32_t> zeros(std::vector<int32_t>(3));
  AttentionForward<T> f;
  f.queries = 3, f.heads = f.kv_heads = 1, f.dim = 16, f.begin = f.end = zeros.data();
  f.q = q.heads_view(16), f.o = o.heads(16), f.lse = lse.data();
  cuda::attention_forward(f, nullptr);
  for (double x : o.pull().values()) EXPECT_EQ(x, 0);
  for (double x : lse.pull().values()) EXPECT_EQ(x, -INFINITY);
}

TEST(AttentionCudaLimits, AHeadThatIsTooWideIsAnError) {
  RATTAN_NEEDS_GPU();
  AttentionForward<float> f;
  f.queries = f.keys = f.heads = f.kv_heads = 1, f.dim = 257;
  EXPECT_THROW(cuda::attention_forward(f, nullptr), Error);
}

TEST(AttentionCudaLarge, OffsetsBeyond31Bits) {
  RATTAN_NEEDS_GPU();
  constexpr int64_t kTokens = 128, kHeads = 128, kDim = 128, kTimes = 1025, kBlock = kTokens * kHeads * kDim;
  if (memory_is_short(kBlock * kTimes * 17)) GTEST_SKIP() << "not enough device memory";
  Rng rng(4200);
  Repeated<bf16> q(rng, kBlock, kTimes), k(rng, kBlock, kTimes), v(rng, kBlock, kTimes), d_o(rng, kBlock, kTimes);
  Repeated<bf16> o(kBlock, kTimes), dq(kBlock, kTimes), dk(kBlock, kTimes), dv(kBlock, kTimes);
  DeviceRows<float> lse(kTokens * kTimes, kHeads);
  std::vector<int32_t> begin, end;
  for (int32_t i = 0; i < kTokens * kTimes; ++i) begin.push_back(i / 128 * 128), end.push_back(i + 1);
  DeviceVector<int32_t> begin_d(begin), end_d(end);
  constexpr int64_t kRow = kHeads * kDim;
  AttentionForward<bf16> f;
  f.queries = f.keys = kTokens * kTimes, f.heads = f.kv_heads = kHeads, f.dim = kDim, f.scale = 0.1f;
  f.begin = begin_d.data(), f.end = end_d.data(), f.lse = lse.data();
  f.q = {q.data(), kRow, kDim}, f.k = {k.data(), kRow, kDim}, f.v = {v.data(), kRow, kDim};
  f.o = {o.data(), kRow, kDim};
  cuda::attention_forward(f, nullptr);
  o.expect_last_is_first("o");
  AttentionBackward<bf16> b;
  b.queries = b.keys = f.queries, b.heads = b.kv_heads = kHeads, b.dim = kDim, b.scale = f.scale;
  b.begin = f.begin, b.end = f.end, b.q = f.q, b.k = f.k, b.v = f.v, b.lse = lse.data();
  b.o = {o.data(), kRow, kDim}, b.d_o = {d_o.data(), kRow, kDim};
  b.dq = {dq.data(), kRow, kDim}, b.dk = {dk.data(), kRow, kDim}, b.dv = {dv.data(), kRow, kDim};
  backward(b);
  dq.expect_last_is_first("dq");
  dk.expect_last_is_first("dk");
  dv.expect_last_is_first("dv");
}

}  // namespace rattan::kernels::attention_cuda_test_file
