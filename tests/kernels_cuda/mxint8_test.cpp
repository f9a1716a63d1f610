// Caches in 8 bits on the GPU: the format bit for bit, and decoding over it against float64.
#include "rattan/kernels/mxint8.h"

#include "rattan/kernels/attention.h"
#include "rattan/kernels/ref/attention_ref.h"
#include "tests/kernels/mxint8_test_util.h"
#include "tests/kernels_cuda/cuda_test_util.h"

namespace rattan::kernels::mxint8_cuda_test_file {

template <class T>
class Mxint8Cuda : public ::testing::Test {};
using Types = ::testing::Types<float, bf16>;
TYPED_TEST_SUITE(Mxint8Cuda, Types);

// A cache with a copy on the device.
struct DeviceCache {
  Cache host;
  DeviceVector<int8_t> codes;
  DeviceVector<uint8_t> exponents;
  explicit DeviceCache(Cache cache) : host(std::move(cache)), codes(host.codes), exponents(host.exponents) {}
  Mxint8Heads<int8_t> ref() const {
    return {{codes.data(), host.heads * host.dim, host.dim}, {exponents.data(), host.heads * host.blocks, host.blocks}};
  }
  const Cache& pull() {
    host.codes = codes.pull(), host.exponents = exponents.pull();
    return host;
  }
};

TYPED_TEST(Mxint8Cuda, StoresLoadsAndRoundsBitForBit) {
  RATTAN_NEEDS_GPU();
  using T = TypeParam;
  for (int64_t dim : {1, 8, 31, 32, 33, 64, 128, 200, 256}) {
    SCOPED_TRACE(::testing::Message() << "seed 17, dim " << dim);
    Rng rng(17);
    const int64_t rows = 70, heads = 3, width = heads * dim;
    Rows<T> x = Rows<T>::normal(rng, rows, width, 5);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = 0; i < width; ++i)
        x.at(r, i) = from_double<T>(to_double(x.at(r, i)) * std::exp2(2 * static_cast<double>(r) - 130));
    std::vector<int64_t> from, to;
    for (int64_t i = 0; i < rows; i += 2) from.push_back(rows - 1 - i), to.push_back(i);
    const Cache empty(rows, heads, dim);
    Cache expected = empty;
    const std::vector<double> values = x.values();
    for (std::size_t i = 0; i < to.size(); ++i) expected.encode(to[i], values.data() + from[i] * width);

    DeviceRows<T> on_device(x, rows), loaded(static_cast<int64_t>(to.size()), width, 2);
    DeviceCache cache(empty);
    const DeviceVector<int64_t> from_device(from), to_device(to);
    Mxint8Store<T> s;
    s.rows = static_cast<int64_t>(to.size()), s.heads = heads, s.dim = dim;
    s.from = from_device.data(), s.to = to_device.data(), s.x = on_device.heads_view(dim), s.y = cache.ref();
    cuda::mxint8_store(s, nullptr);
    EXPECT_TRUE(cache.pull() == expected);

    Mxint8Load<T> l;
    l.rows = s.rows, l.heads = heads, l.dim = dim, l.from = to_device.data();
    l.x = read_only(cache.ref()), l.y = loaded.heads(dim);
    cuda::mxint8_load(l, nullptr);
    // Every other row, named by an int32 table with gaps, is rounded in place.
    std::vector<int32_t> at;
    for (int64_t i : from) at.push_back(static_cast<int32_t>(i)), at.push_back(-1);
    const DeviceVector<int32_t> at_device(at);
    Mxint8Round<T> r;
    r.rows = s.rows, r.heads = heads, r.dim = dim, r.at = at_device.data(), r.stride = 2, r.x = on_device.heads(dim);
    cuda::mxint8_round(r, nullptr);
    loaded.pull(), on_device.pull();
    EXPECT_TRUE(loaded.host().padding_untouched());
    EXPECT_TRUE(on_device.host().padding_untouched());
    for (std::size_t i = 0; i < to.size(); ++i) {
      for (int64_t c = 0; c < width; ++c) {
        const double held = expected.value(to[i], c / dim, c % dim);
        ASSERT_EQ(to_double(loaded.host().at(static_cast<int64_t>(i), c)), held);
        ASSERT_EQ(to_double(on_device.host().at(from[i], c)), held);
        ASSERT_EQ(to_double(on_device.host().at(to[i], c)), to_double(x.at(to[i], c))) << "not named";
      }
    }
  }
}

TYPED_TEST(Mxint8Cuda, NotFiniteBlocksAreNaN) {
  RATTAN_NEEDS_GPU();
  using T = TypeParam;
  for (float bad : {NAN, INFINITY, -INFINITY}) {
    Rows<T> x(1, 40);
    for (int64_t i = 0; i < 40; ++i) x.at(0, i) = from_double<T>(i == 3 ? bad : 1.0);
    DeviceRows<T> on_device(x, 1);
    Mxint8Round<T> r;
    r.rows = 1, r.heads = 1, r.dim = 40, r.x = on_device.heads(40);
    cuda::mxint8_round(r, nullptr);
    const auto y = on_device.pull().values();
    for (std::size_t i = 0; i < y.size(); ++i) EXPECT_EQ(std::isnan(y[i]), i < 32) << i;
  }
}

TYPED_TEST(Mxint8Cuda, AttentionIsTheFormulaOnTheNumbersHeld) {
  RATTAN_NEEDS_GPU();
  using T = TypeParam;
  struct Sizes {
    int64_t queries, keys, heads, kv_heads, dim;
  };
  // Small blocks and large ones, several parts to a query, shared keys, sizes without 16-byte units.
  for (const Sizes& s :
       {Sizes{1, 2500, 4, 2, 64}, Sizes{5, 300, 6, 3, 33}, Sizes{3, 70, 2, 2, 128}, Sizes{4, 0, 2, 1, 16},
        Sizes{2, 65, 16, 2, 8}, Sizes{40, 900, 16, 8, 128}, Sizes{2, 700, 2, 1, 256}, Sizes{1, 9000, 16, 16, 128}}) {
    SCOPED_TRACE(::testing::Message() << "seed 23, " << s.queries << " queries, " << s.keys << " keys, dim " << s.dim);
    Rng rng(23);
    DeviceRows<T> q = normal_on_device<T>(rng, s.queries, s.heads * s.dim, 8);
    Cache host_k(s.keys, s.kv_heads, s.dim), host_v = host_k;
    for (Cache* cache : {&host_k, &host_v})
      for (int64_t i = 0; i < s.keys; ++i) cache->encode(i, random_normal(rng, s.kv_heads * s.dim).data());
    const DeviceCache k(host_k), v(host_v);
    std::vector<int32_t> begin, end;
    for (int64_t i = 0; i < s.queries; ++i) {
      begin.push_back(s.queries == 1 ? 0 : static_cast<int32_t>(rng.below(static_cast<uint64_t>(s.keys + 1))));
      end.push_back(i == 2 ? begin.back() : static_cast<int32_t>(s.keys));  // one sees nothing
    }
    const double scale = 1 / std::sqrt(static_cast<double>(s.dim));
    const auto expected = ref::attention_forward({s.queries, s.keys, s.heads, s.kv_heads, s.dim, scale, begin, end,
                                                  q.host().values(), host_k.values(), host_v.values()});
    const DeviceVector<int32_t> begin_device(begin), end_device(end);
    DeviceRows<T> o(s.queries, s.heads * s.dim, 2);
    AttentionCached<T> a;
    a.queries = s.queries, a.keys = s.keys, a.heads = s.heads, a.kv_heads = s.kv_heads, a.dim = s.dim;
    a.scale = static_cast<float>(scale), a.begin = begin_device.data(), a.end = end_device.data();
    a.q = q.heads_view(s.dim), a.k = read_only(k.ref()), a.v = read_only(v.ref()), a.o = o.heads(s.dim);
    DeviceMemory scratch(cuda::attention_cached_scratch_bytes(s.queries, s.keys, s.heads, s.dim));
    cuda::attention_cached(a, scratch.data(), nullptr);
    // fp32: sums over channels and keys; bf16: the output's rounding.
    const double bound = std::is_same_v<T, bf16> ? rounding<bf16>() : 50 * rounding<float>();
    EXPECT_LE(relative_rms_error(o.pull().values(), expected.o), bound);
    EXPECT_TRUE(o.host().padding_untouched());
  }
}

// What a step works on, on the device.
template <class T>
struct DeviceStep {
  DeviceVector<RatChunk> table;
  DeviceRows<T> proj, out;
  DeviceVector<float> bias, cos, sin, running_k, running_v;
  DeviceCache k, v;
  explicit DeviceStep(const StepCase<T>& c)
      : table(c.table),
        proj(c.proj, c.shape.tokens),
        out(c.shape.tokens, c.shape.heads * c.shape.dim, 2),
        bias(c.bias),
        cos(c.cos),
        sin(c.sin),
        running_k(c.running_k),
        running_v(c.running_v),
        k(c.past_k),
        v(c.past_v) {}

  RatForward<T> call(const StepCase<T>& c) {
    RatForward<T> a;
    const int64_t width = c.shape.heads * c.shape.dim;
    a.shape = c.shape, a.table = table.data(), a.proj = proj.view(), a.gate_bias = bias.data(), a.step = true;
    if (!c.cos.empty()) a.cos = cos.data(), a.sin = sin.data();
    a.cached_k = k.ref(), a.cached_v = v.ref();
    a.running_k = {running_k.data(), width, c.shape.dim}, a.running_v = {running_v.data(), width, c.shape.dim};
    a.final_k = {running_k.data(), width, c.shape.dim}, a.final_v = {running_v.data(), width, c.shape.dim};
    a.out = out.ref();
    return a;
  }
  static void run(const RatForward<T>& a) {
    DeviceMemory scratch(cuda::rat_forward_scratch_bytes(a));
    cuda::rat_forward(a, scratch.data(), nullptr);
  }
  StepResult<T> pull(const StepCase<T>& c) {
    StepResult<T> r(c);
    r.out = out.pull(), r.k = k.pull(), r.v = v.pull();
    r.running_k = running_k.pull(), r.running_v = running_v.pull();
    return r;
  }
};

// Enough sequences for small blocks, too.
template <class T>
std::vector<StepCase<T>> cases() {
  std::vector<StepCase<T>> out = step_cases<T>();
  std::vector<int64_t> many;
  for (int64_t i = 0; i < 60; ++i) many.push_back(i * 37 % 300);
  out.push_back({401, 16, 2, 128, true, many, 0});
  out.push_back({402, 16, 2, 64, true, many, 1});
  return out;
}

TYPED_TEST(Mxint8Cuda, ARatStepIsTheFormulaOnTheNumbersHeld) {
  RATTAN_NEEDS_GPU();
  using T = TypeParam;
  for (const StepCase<T>& c : cases<T>()) {
    SCOPED_TRACE(c.label());
    DeviceStep<T> step(c), again(c);
    DeviceStep<T>::run(step.call(c));
    DeviceStep<T>::run(again.call(c));
    const StepResult<T> r = step.pull(c);
    c.expect(r, ref::rat_forward(c.reference()));
    const StepResult<T> same = again.pull(c);
    EXPECT_TRUE(r.out == same.out && r.k == same.k && r.v == same.v) << "bits from run to run";
  }
}

// Rows of the computing type with rounded ends, as in a prefill: ends are on the grid, and the output agrees.
TYPED_TEST(Mxint8Cuda, RoundedEndsAreWhatACacheWouldHold) {
  RATTAN_NEEDS_GPU();
  using T = TypeParam;
  for (const StepCase<T>& c : cases<T>()) {
    SCOPED_TRACE(c.label());
    DeviceStep<T> step(c), whole(c);
    DeviceStep<T>::run(step.call(c));
    DeviceRows<T> ends_k(c.template rows_of<T>(c.past_k), c.shape.ends);
    DeviceRows<T> ends_v(c.template rows_of<T>(c.past_v), c.shape.ends);
    RatForward<T> a = whole.call(c);
    a.cached_k = a.cached_v = {}, a.step = false, a.round_ends = true;
    a.ends_k = ends_k.heads(c.shape.dim), a.ends_v = ends_v.heads(c.shape.dim);
    DeviceStep<T>::run(a);
    const StepResult<T> r = step.pull(c);
    const double bound = std::is_same_v<T, bf16> ? 3 * rounding<bf16>() : 60 * rounding<float>();
    EXPECT_LE(relative_rms_error(r.out.values(), whole.out.pull().values()), bound);
    for (const auto& [cache, rows] : {std::pair(&r.k, &ends_k.pull()), std::pair(&r.v, &ends_v.pull())}) {
      for (const RatChunk& chunk : c.table) {
        const int64_t width = c.shape.heads * c.shape.dim;
        std::vector<double> row;
        for (int64_t i = 0; i < width; ++i) row.push_back(to_double(rows->at(chunk.slot, i)));
        Cache held(1, c.shape.heads, c.shape.dim);
        held.encode(0, row.data());
        EXPECT_EQ(held.values(), row) << "on the grid";
        // The recurrence may be rounded otherwise in its last bit, which may move a code by one.
        for (int64_t i = 0; i < width; ++i) {
          const double most =
              *std::max_element(row.begin() + i / 32 * 32, row.begin() + std::min(width, i / 32 * 32 + 32),
                                [](double x, double y) { return std::abs(x) < std::abs(y); });
          if (c.shape.dim % 32 == 0) {
            EXPECT_NEAR(cache->value(chunk.slot, i / c.shape.dim, i % c.shape.dim), row[static_cast<std::size_t>(i)],
                        std::abs(most) * 0x1p-5);
          }
        }
      }
    }
  }
}

}  // namespace rattan::kernels::mxint8_cuda_test_file
