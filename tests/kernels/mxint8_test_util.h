// Caches in 8 bits and decoding steps of RAT on them, for the tests on either device.
#pragma once
#include "rattan/kernels/mxint8.h"
#include "rattan/kernels/ref/rat_ref.h"
#include "rattan/kernels/rope.h"
#include "tests/kernels/kernel_test_util.h"

namespace rattan::kernels {

// Codes and exponents of [rows, heads, dim]; what was never written is odd enough to be seen: NaN.
struct Cache {
  int64_t rows, heads, dim, blocks;
  std::vector<int8_t> codes;
  std::vector<uint8_t> exponents;

  Cache(int64_t rows_in, int64_t heads_in, int64_t dim_in)
      : rows(rows_in),
        heads(heads_in),
        dim(dim_in),
        blocks(mxint8_blocks(dim_in)),
        codes(static_cast<std::size_t>(rows * heads * dim), 0),
        exponents(static_cast<std::size_t>(rows * heads * blocks), 255) {}
  Mxint8Heads<int8_t> ref() { return {{codes.data(), heads * dim, dim}, {exponents.data(), heads * blocks, blocks}}; }
  Mxint8Heads<const int8_t> view() const {
    return {{codes.data(), heads * dim, dim}, {exponents.data(), heads * blocks, blocks}};
  }
  // The formula of the format, for finite x [heads, dim].
  void encode(int64_t row, const double* x) {
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t c = 0; c < dim; c += mxint8_block) {
        const int64_t n = std::min(mxint8_block, dim - c), at = row * heads + h;
        double most = 0;
        for (int64_t i = 0; i < n; ++i) most = std::max(most, std::abs(x[h * dim + c + i]));
        const bool none = most < 0x1p-120;
        const int power = none ? 0 : std::ilogb(most) - 6;
        exponents[static_cast<std::size_t>(at * blocks + c / mxint8_block)] =
            static_cast<uint8_t>(none ? 0 : power + 127);
        for (int64_t i = 0; i < n; ++i) {
          const double code = none ? 0 : std::nearbyint(std::ldexp(x[h * dim + c + i], -power));
          codes[static_cast<std::size_t>(at * dim + c + i)] = static_cast<int8_t>(std::clamp(code, -127.0, 127.0));
        }
      }
    }
  }
  double value(int64_t row, int64_t head, int64_t c) const {
    const auto at = static_cast<std::size_t>(row * heads + head);
    const int e = exponents[at * static_cast<std::size_t>(blocks) + static_cast<std::size_t>(c / mxint8_block)];
    if (e == 255) return NAN;
    return e == 0 ? 0 : codes[at * static_cast<std::size_t>(dim) + static_cast<std::size_t>(c)] * std::exp2(e - 127);
  }
  std::vector<double> values() const {
    std::vector<double> out;
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t h = 0; h < heads; ++h)
        for (int64_t c = 0; c < dim; ++c) out.push_back(value(r, h, c));
    return out;
  }
  bool same_row(const Cache& other, int64_t row) const {
    auto same = [row](const auto& a, const auto& b, int64_t width) {
      return std::equal(a.begin() + row * width, a.begin() + (row + 1) * width, b.begin() + row * width);
    };
    return same(codes, other.codes, heads * dim) && same(exponents, other.exponents, heads * blocks);
  }
  bool operator==(const Cache& o) const { return codes == o.codes && exponents == o.exponents; }
};

// One decoding step: sequence s holds ends[s] whole chunks and, where it is odd, a begun one.
template <class T>
struct StepCase {
  uint64_t seed;
  RatShape shape;
  std::vector<RatChunk> table;
  Rows<T> proj;
  std::vector<float> bias, cos, sin, running_k, running_v;
  Cache past_k, past_v;

  StepCase(uint64_t seed_in, int64_t heads, int64_t groups, int64_t dim, bool rotate, const std::vector<int64_t>& ends,
           int64_t padding)
      : StepCase(Rng(seed_in), seed_in, heads, groups, dim, rotate, ends, padding) {}

  std::string label() const {
    return "seed " + std::to_string(seed) + ", " + std::to_string(shape.tokens) + " sequences, dim " +
           std::to_string(shape.dim);
  }

  // The cache's numbers as rows of another type.
  template <class U>
  Rows<U> rows_of(const Cache& cache) const {
    Rows<U> out(cache.rows, cache.heads * cache.dim);
    const auto values = cache.values();
    for (std::size_t i = 0; i < values.size(); ++i) out.data()[i] = from_double<U>(values[i]);
    return out;
  }

  ref::Rat reference() const {
    return {shape,           table,           proj.values(),   to_doubles(bias),      to_doubles(cos),
            to_doubles(sin), past_k.values(), past_v.values(), to_doubles(running_k), to_doubles(running_v)};
  }

  template <class Result>
  RatForward<T> call(Result& r) const {
    RatForward<T> a;
    const int64_t width = shape.heads * shape.dim;
    a.shape = shape, a.table = table.data(), a.proj = proj.view(), a.gate_bias = bias.data(), a.step = true;
    if (!cos.empty()) a.cos = cos.data(), a.sin = sin.data();
    a.cached_k = r.k.ref(), a.cached_v = r.v.ref();
    a.running_k = {r.running_k.data(), width, shape.dim}, a.running_v = {r.running_v.data(), width, shape.dim};
    a.final_k = {r.running_k.data(), width, shape.dim}, a.final_v = {r.running_v.data(), width, shape.dim};
    a.out = r.out.ref();
    return a;
  }

  // The output, the running states, and caches where nothing but the new ends changed, those within half a step (or
  // one where a code was cut) and what fp32 and T lose before.
  template <class Result>
  void expect(const Result& r, const ref::RatOutput& expected) const {
    const double bound = std::is_same_v<T, bf16> ? 2 * rounding<bf16>() : 60 * rounding<float>();
    EXPECT_LE(relative_rms_error(r.out.values(), expected.out), bound);
    EXPECT_TRUE(r.out.padding_untouched());
    EXPECT_LE(relative_rms_error(to_doubles(r.running_k), expected.final_k), 60 * rounding<float>());
    EXPECT_LE(relative_rms_error(to_doubles(r.running_v), expected.final_v), 60 * rounding<float>());
    std::vector<bool> written(static_cast<std::size_t>(shape.ends), false);
    for (const RatChunk& c : table) written[static_cast<std::size_t>(c.slot)] = true;
    for (int64_t e = 0; e < shape.ends; ++e) {
      if (!written[static_cast<std::size_t>(e)]) {
        EXPECT_TRUE(r.k.same_row(past_k, e) && r.v.same_row(past_v, e)) << "end " << e << " is not of this call";
        continue;
      }
      expect_held(r.k, e, expected.ends_k);
      expect_held(r.v, e, expected.ends_v);
    }
  }

 private:
  void expect_held(const Cache& cache, int64_t end, const std::vector<double>& expected) const {
    for (int64_t h = 0; h < shape.heads; ++h) {
      for (int64_t c = 0; c < shape.dim; ++c) {
        auto at = [&](int64_t d) {
          return expected[static_cast<std::size_t>((end * shape.heads + h) * shape.dim + d)];
        };
        double most = 0;
        for (int64_t d = c / 32 * 32; d < std::min(shape.dim, c / 32 * 32 + 32); ++d)
          most = std::max(most, std::abs(at(d)));
        ASSERT_NEAR(cache.value(end, h, c), at(c), most * (0x1p-6 + rounding<bf16>())) << "end " << end;
      }
    }
  }

  StepCase(Rng rng, uint64_t seed_in, int64_t heads, int64_t groups, int64_t dim, bool rotate,
           const std::vector<int64_t>& ends, int64_t padding)
      : seed(seed_in),
        shape(shape_of(heads, groups, dim, ends)),
        proj(Rows<T>::normal(rng, shape.tokens, shape.width(), padding)),
        bias(random_floats(rng, heads * dim)),
        running_k(random_floats(rng, shape.tokens * heads * dim)),
        running_v(random_floats(rng, shape.tokens * heads * dim)),
        past_k(shape.ends, heads, dim),
        past_v(shape.ends, heads, dim) {
    int32_t first = 0, positions = 1;
    for (std::size_t s = 0; s < ends.size(); ++s) {
      const auto n = static_cast<int32_t>(ends[s]), row = static_cast<int32_t>(s);
      table.push_back({row, row + 1, first, first + n, n, n % 2 == 1 ? row : -1, row});
      for (int32_t e = first; e < first + n; ++e) fill(rng, past_k, e), fill(rng, past_v, e);
      first += n + 2;  // the new end and one that nobody names
      positions = std::max(positions, n + 1);
    }
    if (!rotate) return;
    cos.resize(static_cast<std::size_t>(positions * (dim / 2)));
    sin.resize(cos.size());
    rope_table(positions, dim, 10000, cos.data(), sin.data());
  }
  static RatShape shape_of(int64_t heads, int64_t groups, int64_t dim, const std::vector<int64_t>& ends) {
    RatShape s;
    s.tokens = s.chunks = static_cast<int64_t>(ends.size()), s.heads = heads, s.groups = groups, s.dim = dim;
    for (int64_t n : ends) s.ends += n + 2;
    s.max_chunk = 16;
    return s;
  }
  // Numbers of about 1.
  static void fill(Rng& rng, Cache& cache, int64_t row) {
    for (int64_t i = 0; i < cache.heads * cache.dim; ++i)
      cache.codes[static_cast<std::size_t>(row * cache.heads * cache.dim + i)] =
          static_cast<int8_t>(static_cast<int64_t>(rng.below(255)) - 127);
    for (int64_t i = 0; i < cache.heads * cache.blocks; ++i)
      cache.exponents[static_cast<std::size_t>(row * cache.heads * cache.blocks + i)] =
          static_cast<uint8_t>(119 + rng.below(4));
  }
};

template <class T>
struct StepResult {
  Rows<T> out;
  Cache k, v;
  std::vector<float> running_k, running_v;
  explicit StepResult(const StepCase<T>& c)
      : out(c.shape.tokens, c.shape.heads * c.shape.dim, 2),
        k(c.past_k),
        v(c.past_v),
        running_k(c.running_k),
        running_v(c.running_v) {}
};

template <class T>
std::vector<StepCase<T>> step_cases() {
  std::vector<StepCase<T>> out;
  out.push_back({301, 4, 2, 128, true, {255, 40, 0, 7}, 0});
  out.push_back({302, 1, 1, 8, true, {3}, 0});
  out.push_back({303, 3, 1, 33, false, {12, 1}, 1});
  out.push_back({304, 2, 2, 64, true, {1500}, 0});  // parts that are merged
  out.push_back({305, 2, 1, 256, true, {90, 65}, 0});
  out.push_back({306, 4, 2, 48, true, {64, 33, 5}, 8});
  out.push_back({307, 2, 1, 200, true, {17, 31, 130}, 3});
  return out;
}

}  // namespace rattan::kernels
