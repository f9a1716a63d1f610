// The CUDA gated scan against its float64 reference.
#include "rattan/kernels/gated_scan.h"

#include "rattan/kernels/ref/gated_scan_ref.h"
#include "tests/kernels_cuda/cuda_test_util.h"

namespace rattan::kernels::gated_scan_cuda_test_file {

constexpr int64_t state_rows = 5;

template <class T>
class GatedScanCuda : public ::testing::Test {};
using Types = ::testing::Types<float, bf16>;
TYPED_TEST_SUITE(GatedScanCuda, Types);

// fp32: a few roundings a step, and the recurrence forgets them. bf16: the output is rounded once.
template <class T>
constexpr double output_bound = std::is_same_v<T, bf16> ? rounding<bf16>() : 24 * rounding<float>();
constexpr double state_bound = 24 * 0x1p-24;
constexpr double sum_bound = 100 * 0x1p-24;

struct Shape {
  int64_t tokens, channels, padding;
  std::vector<ScanSegment> table;
};

std::vector<ScanSegment> many_short_segments(int32_t count) {
  std::vector<ScanSegment> table;
  for (int32_t i = 0, at = 0; i < count; ++i) {
    const int32_t length = i % 7;  // some are empty
    table.push_back({at, at + length, i == 3 ? 1 : -1, i == 5 ? 2 : -1});
    at += length + (i % 3 == 0 ? 1 : 0);
  }
  return table;
}

std::vector<ScanSegment> segments_of_length(int32_t count, int32_t length) {
  std::vector<ScanSegment> table;
  for (int32_t i = 0; i < count; ++i) table.push_back({i * length + i / 3, (i + 1) * length + i / 3, i % 4 - 1, -1});
  table.back().to = 2;
  return table;
}

// One token; a segment longer than many tiles; gaps before, between and after; a shared initial row; one-token
// steps of several sequences; no segment; segments that are split into parts, long and short ones, with gaps.
std::vector<Shape> shapes() {
  const auto steps = many_short_segments(200);
  return {
      {1, 1, 0, {{0, 1, -1, -1}}},
      {300, 5, 2, {{0, 300, 0, 1}}},
      {1000, 70, 0, {{3, 997, 1, 1}}},
      {90, 33, 7, {{3, 40, 1, 1}, {40, 41, -1, 2}, {45, 80, 2, -1}}},
      {64, 300, 1, {{0, 16, 3, 0}, {16, 48, 3, 2}, {48, 64, 3, 3}}},
      {5, 64, 0, {{0, 1, 0, 0}, {1, 2, 1, 1}, {2, 3, 2, 2}, {3, 4, 3, 3}, {4, 5, 4, 4}}},
      {steps.back().end + 4, 17, 0, steps},
      {10, 16, 0, {}},
      {5000, 40, 1, {{10, 4000, 1, 1}, {4003, 4900, 2, 0}, {4900, 4900, 3, 3}, {4901, 4902, -1, 2}}},
      {2600, 17, 0, segments_of_length(12, 213)},
      {1100, 33, 0, {{0, 5, 0, -1}, {5, 7, 0, 3}, {300, 1100, 0, 0}}},
  };
}

template <class T>
struct Run {
  DeviceRows<T> h, d_x, d_gate;
  DeviceRows<float> d_bias;
  DeviceVector<float> final, d_initial;
};

template <class T>
void check(const Shape& shape, uint64_t seed, bool optional) {
  const auto& [tokens, channels, padding, table] = shape;
  SCOPED_TRACE(::testing::Message() << "seed " << seed << ", " << tokens << " x " << channels);
  Rng rng(seed);
  auto x = normal_on_device<T>(rng, tokens, channels, padding);
  auto gate = normal_on_device<T>(rng, tokens, channels, 2 * padding, 2);
  auto d_h = normal_on_device<T>(rng, tokens, channels, padding);
  const auto bias = random_floats(rng, channels), initial = random_floats(rng, state_rows * channels),
             d_final = random_floats(rng, state_rows * channels);
  DeviceVector<float> bias_d(bias), initial_d(initial), d_final_d(d_final);
  DeviceVector<ScanSegment> table_d(table);
  ref::GatedScan problem{
      tokens,           channels,           state_rows, table, x.host().values(), gate.host().values(),
      to_doubles(bias), to_doubles(initial)};
  if (!optional) {
    problem.gate_bias.clear();
    for (const auto& s : table) ASSERT_TRUE(s.from < 0) << "this case reads no state";
  }
  const auto expected = ref::gated_scan_forward(problem);
  const auto gradients =
      ref::gated_scan_backward(problem, d_h.host().values(), optional ? to_doubles(d_final) : std::vector<double>{});
  const auto segments = static_cast<int64_t>(table.size());
  DeviceMemory scratch(cuda::gated_scan_backward_scratch_bytes(tokens, channels, segments));
  DeviceMemory forward_scratch(cuda::gated_scan_forward_scratch_bytes(tokens, channels, segments));
  auto run = [&] {
    const std::vector<float> zeros(initial.size());
    Run<T> out{{tokens, channels, padding}, {tokens, channels, padding}, {tokens, channels, padding}, {1, channels},
               DeviceVector<float>(zeros),  DeviceVector<float>(zeros)};
    GatedScanForward<T> f;
    f.tokens = tokens, f.channels = channels, f.segments = segments, f.table = table_d.data();
    f.x = x.view(), f.gate = gate.view(), f.h = out.h.ref();
    GatedScanBackward<T> b;
    b.tokens = tokens, b.channels = channels, b.segments = segments, b.table = table_d.data();
    b.x = x.view(), b.gate = gate.view(), b.d_h = d_h.view(), b.d_x = out.d_x.ref(), b.d_gate = out.d_gate.ref();
    if (optional) {
      f.gate_bias = b.gate_bias = bias_d.data();
      f.initial = b.initial = initial_d.data();
      f.final = out.final.data(), b.d_final = d_final_d.data();
      b.d_gate_bias = out.d_bias.data(), b.d_initial = out.d_initial.data();
    }
    cuda::gated_scan_forward(f, forward_scratch.data(), nullptr);
    cuda::gated_scan_backward(b, scratch.data(), nullptr);
    out.h.pull(), out.d_x.pull(), out.d_gate.pull(), out.d_bias.pull(), out.final.pull(), out.d_initial.pull();
    return out;
  };
  auto out = run(), again = run();
  EXPECT_LE(relative_rms_error(out.h.host().values(), expected.h), output_bound<T>);
  EXPECT_LE(relative_rms_error(out.d_x.host().values(), gradients.d_x), output_bound<T>);
  EXPECT_LE(relative_rms_error(out.d_gate.host().values(), gradients.d_gate), output_bound<T>);
  if (optional) {
    EXPECT_LE(relative_rms_error(to_doubles(out.final.pull()), expected.final), state_bound);
    EXPECT_LE(relative_rms_error(out.d_bias.host().values(), gradients.d_gate_bias), sum_bound);
    EXPECT_LE(relative_rms_error(to_doubles(out.d_initial.pull()), gradients.d_initial), state_bound);
    EXPECT_TRUE(out.d_bias.host() == again.d_bias.host());
  }
  EXPECT_TRUE(out.h.host() == again.h.host() && out.d_x.host() == again.d_x.host() &&
              out.d_gate.host() == again.d_gate.host())
      << "another run gave other bits";
  EXPECT_TRUE(out.h.host().padding_untouched() && out.d_x.host().padding_untouched());
}

TYPED_TEST(GatedScanCuda, IsTheRecurrenceAndItsGradient) {
  RATTAN_NEEDS_GPU();
  uint64_t seed = 3000;
  for (const Shape& shape : shapes()) check<TypeParam>(shape, seed++, true);
  check<TypeParam>({40, 19, 0, {{0, 25, -1, -1}, {25, 40, -1, -1}}}, seed++, false);
}

TYPED_TEST(GatedScanCuda, StateMayBeUpdatedInPlace) {
  RATTAN_NEEDS_GPU();
  using T = TypeParam;
  constexpr int64_t tokens = 300, channels = 48;
  Rng rng(3100);
  auto x = normal_on_device<T>(rng, tokens, channels), gate = normal_on_device<T>(rng, tokens, channels);
  const auto initial = random_floats(rng, 2 * channels);
  const std::vector<ScanSegment> table{{0, 140, 1, 1}, {140, 300, 0, 0}};
  DeviceVector<float> state(initial);
  DeviceVector<ScanSegment> table_d(table);
  DeviceRows<T> h(tokens, channels);
  GatedScanForward<T> f;
  f.tokens = tokens, f.channels = channels, f.segments = 2, f.table = table_d.data();
  f.x = x.view(), f.gate = gate.view(), f.h = h.ref(), f.initial = f.final = state.data();
  DeviceMemory scratch(cuda::gated_scan_forward_scratch_bytes(tokens, channels, 2));
  cuda::gated_scan_forward(f, scratch.data(), nullptr);
  const auto expected = ref::gated_scan_forward(
      {tokens, channels, 2, table, x.host().values(), gate.host().values(), {}, to_doubles(initial)});
  EXPECT_LE(relative_rms_error(h.pull().values(), expected.h), output_bound<T>);
  EXPECT_LE(relative_rms_error(to_doubles(state.pull()), expected.final), state_bound);
}

TYPED_TEST(GatedScanCuda, SizesMayBeZero) {
  RATTAN_NEEDS_GPU();
  for (auto [tokens, channels] : {std::pair<int64_t, int64_t>{0, 5}, {4, 0}, {0, 0}}) {
    check<TypeParam>({tokens, channels, 0, {}}, 3200, true);
  }
}

TEST(GatedScanCudaLarge, OffsetsBeyond31Bits) {
  RATTAN_NEEDS_GPU();
  constexpr int64_t kTokens = 256, kChannels = 2048, kTimes = 4097, kBlock = kTokens * kChannels;
  if (memory_is_short(kBlock * kTimes * 13)) GTEST_SKIP() << "not enough device memory";
  Rng rng(3300);
  Repeated<bf16> x(rng, kBlock, kTimes), gate(rng, kBlock, kTimes), d_h(rng, kBlock, kTimes);
  Repeated<bf16> h(kBlock, kTimes), d_gate(kBlock, kTimes);
  std::vector<ScanSegment> table;
  for (int32_t i = 0; i < kTimes; ++i) table.push_back({i * 256, (i + 1) * 256, -1, -1});
  DeviceVector<ScanSegment> table_d(table);
  GatedScanForward<bf16> f;
  f.tokens = kTokens * kTimes, f.channels = kChannels, f.segments = kTimes, f.table = table_d.data();
  f.x = {x.data(), kChannels}, f.gate = {gate.data(), kChannels}, f.h = {h.data(), kChannels};
  DeviceMemory forward_scratch(cuda::gated_scan_forward_scratch_bytes(f.tokens, kChannels, kTimes));
  cuda::gated_scan_forward(f, forward_scratch.data(), nullptr);
  h.expect_last_is_first("h");
  DeviceMemory scratch(cuda::gated_scan_backward_scratch_bytes(f.tokens, kChannels, kTimes));
  GatedScanBackward<bf16> b;
  b.tokens = f.tokens, b.channels = kChannels, b.segments = kTimes, b.table = table_d.data();
  b.x = f.x, b.gate = f.gate, b.d_h = {d_h.data(), kChannels};
  b.d_x = {h.data(), kChannels}, b.d_gate = {d_gate.data(), kChannels};
  cuda::gated_scan_backward(b, scratch.data(), nullptr);
  h.expect_last_is_first("d_x");
  d_gate.expect_last_is_first("d_gate");
}

}  // namespace rattan::kernels::gated_scan_cuda_test_file
