// States in 8 bits: their size, and that what a token sees does not depend on how its sequence was cut into calls.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/flip.h>
#include <ATen/ops/full.h>

#include "rattan/nn/core.h"
#include "tests/nn/mixer_fixture.h"

namespace rattan::mixer_suite {

class CacheIn8Bits : public testing::TestWithParam<MixerCase> {
 protected:
  static constexpr uint64_t seed = 20251125;
  static constexpr int64_t rows = 2, tokens = 37;
  at::ScalarType dtype = GetParam().dtype;
  at::Device device = GetParam().device;
  std::unique_ptr<nn::Mixer> mixer = make_mixer(GetParam(), dtype, seed);
  nn::StateSpec spec = mixer->state_spec().in_8_bits();
  at::Tensor x = random_input(rows, tokens, seed).to(device, dtype);
  // Where a last bit differs a number may be rounded to the next code, 2^-6 of the largest of its 32; few of those that
  // are mixed do, and none here: 6e-7 in fp32, and 5e-3 in bf16, where roundings of the computing type are most of it.
  double error = dtype == at::kBFloat16 ? 3e-2 : 4e-3;

  void SetUp() override {
    bool any = false;
    for (const nn::Field& field : spec.fields) any = any || field.dtype == at::kChar;
    if (!any) GTEST_SKIP() << "nothing of this state is held in 8 bits";
  }
  nn::State fresh() { return nn::make_state(spec, rows, tokens, dtype, device); }
  at::Tensor in_pieces(const std::vector<int64_t>& cuts) {
    nn::State state = fresh();
    std::vector<at::Tensor> parts;
    int64_t from = 0;
    for (int64_t to : cuts) parts.push_back(run_extend(*mixer, x, from, to, state)), from = to;
    return at::cat(parts, 1);
  }
  at::Tensor token_by_token() {
    std::vector<int64_t> cuts;
    for (int64_t t = 1; t <= tokens; ++t) cuts.push_back(t);
    return in_pieces(cuts);
  }
};

TEST_P(CacheIn8Bits, TakesHalfOfBf16AndAByteFor32) {
  const nn::StateSpec full = mixer->state_spec();
  int64_t wide = 0, narrow = 0;  // bytes of what is held in bf16 and of what stays
  for (const nn::Field& field : full.fields) {
    nn::StateSpec one;
    one.fields = {field};
    (field.rounds ? wide : narrow) += one.bytes(1024, at::kBFloat16);
  }
  const int64_t numbers = wide / 2, dim = full.fields[0].shape.back();
  EXPECT_EQ(spec.bytes(1024, at::kBFloat16), narrow + numbers + numbers / dim * ((dim + 31) / 32));
}

TEST_P(CacheIn8Bits, AnySplitIsTheSame) {
  const at::Tensor whole = in_pieces({37});
  for (const std::vector<int64_t>& cuts :
       {std::vector<int64_t>{16, 37}, {1, 2, 3, 37}, {15, 17, 31, 36, 37}, {5, 21, 37}})
    EXPECT_LE(difference(in_pieces(cuts), whole), error) << "seed " << seed << ", " << cuts.size() << " pieces";
  EXPECT_LE(difference(token_by_token(), whole), error) << "seed " << seed;
}

// Keys and values lose 2^-7 of the largest of 32 at most, in many independent numbers: 2.3e-2 of the largest output.
TEST_P(CacheIn8Bits, IsCloseToTheFullState) {
  const at::Tensor full = run_forward(*mixer, x);
  EXPECT_LE(difference(token_by_token(), full), 3e-2) << "seed " << seed;
  // A chunk that is longer than the text never reads what is held in 8 bits.
  bool reads = false;
  for (const nn::Field& field : mixer->state_spec().fields)
    reads |= field.cap > 0 || (field.every > 0 && field.every < tokens);
  if (reads && dtype != at::kBFloat16) {
    EXPECT_GT(difference(token_by_token(), full), 1e-5) << "something is rounded";
  }
}

TEST_P(CacheIn8Bits, AnExchangedCoreSeesTheSame) {
  const at::Tensor plain = token_by_token();
  nn::State state = fresh();
  std::vector<at::Tensor> parts;
  at::NoGradGuard no_grad;
  for (int32_t t = 0; t < tokens; ++t) {
    std::vector<nn::Segment> segments;
    for (int32_t row = 0; row < rows; ++row)
      segments.push_back({.row = row, .begin = 0, .end = 1, .pos0 = t, .from = t > 0 ? row : -1, .to = row});
    const nn::Layout layout(rows, 1, segments, device);
    nn::Call call{layout};
    call.core = &nn::reference_core();
    parts.push_back(mixer->extend(x.slice(1, t, t + 1).contiguous(), state, call));
  }
  EXPECT_LE(difference(at::cat(parts, 1), plain), error) << "seed " << seed;
}

// Rows and positions on the device, as in a recorded step, and rows of a state that are not in a batch's order.
TEST_P(CacheIn8Bits, StepsWithPlacesInTensorsAreTheSame) {
  if (!mixer->traits().takes_steps || dtype == at::kDouble) GTEST_SKIP() << "not decoded so";
  at::NoGradGuard no_grad;
  nn::State plain = fresh(), placed = fresh();
  const auto ints = at::TensorOptions().dtype(at::kInt).device(device);
  for (int32_t t = 0; t < tokens; ++t) {
    const at::Tensor expected = run_extend(*mixer, x, t, t + 1, plain);
    const nn::Layout layout = nn::Layout::step({.rows = at::arange(rows - 1, -1, -1, ints),
                                                .positions = at::full({rows}, t, ints),
                                                .state_rows = rows,
                                                .limit = tokens});
    nn::Call call{layout};
    const at::Tensor one = x.slice(1, t, t + 1).flip({0}).reshape({1, rows, d_model}).contiguous();
    const at::Tensor y = mixer->extend(one, placed, call).view({rows, 1, d_model}).flip({0});
    ASSERT_LE(difference(y, expected), error) << "token " << t << ", seed " << seed;
  }
}

INSTANTIATE_TEST_SUITE_P(Mixers, CacheIn8Bits, testing::ValuesIn(cases()), name_of);

}  // namespace rattan::mixer_suite
