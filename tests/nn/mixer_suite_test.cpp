// What every mixer must fulfil, whatever it computes. A new line in the registry needs an option set in
// mixer_fixture.cpp and passes all of this.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/autograd.h>

#include "rattan/nn/core.h"
#include "tests/nn/mixer_fixture.h"

namespace rattan::mixer_suite {

class MixerSuite : public testing::TestWithParam<MixerCase> {
 protected:
  static constexpr uint64_t seed = 20250704;
  static constexpr int64_t rows = 2, tokens = 37;
  at::ScalarType dtype = GetParam().dtype;
  Errors allowed = errors_of(dtype);
  std::unique_ptr<nn::Mixer> mixer = make_mixer(GetParam(), dtype, seed);
  at::Device device = GetParam().device;
  at::Tensor x = random_input(rows, tokens, seed).to(device, dtype);

  // Bit for bit; but float64 is computed by torch's library, whose last bits depend on where a tensor happens to lie.
  bool unchanged(const at::Tensor& a, const at::Tensor& b) const {
    return dtype == at::kDouble ? difference(a, b) <= allowed.value : same_bits(a, b);
  }
  nn::State fresh_state(int64_t count = rows) {
    return nn::make_state(mixer->state_spec(), count, tokens, dtype, device);
  }
};

TEST_P(MixerSuite, ExtendInAnySplitEqualsForward) {
  if (mixer->traits().step != nn::StepForm::exact) GTEST_SKIP() << "this mixer's step is not exact";
  const at::Tensor whole = run_forward(*mixer, x);
  for (const std::vector<int64_t>& cuts :
       {std::vector<int64_t>{37}, {16, 37}, {1, 2, 3, 37}, {15, 17, 31, 36, 37}, {5, 21, 37}}) {
    nn::State state = fresh_state();
    std::vector<at::Tensor> parts;
    int64_t from = 0;
    for (int64_t to : cuts) {
      parts.push_back(run_extend(*mixer, x, from, to, state));
      from = to;
    }
    EXPECT_LE(difference(at::cat(parts, 1), whole), allowed.value)
        << "seed " << seed << ", " << cuts.size() << " pieces";
  }
}

TEST_P(MixerSuite, TokenByTokenEqualsForward) {
  if (mixer->traits().step != nn::StepForm::exact) GTEST_SKIP() << "this mixer's step is not exact";
  nn::State state = fresh_state();
  std::vector<at::Tensor> parts;
  for (int64_t t = 0; t < tokens; ++t) parts.push_back(run_extend(*mixer, x, t, t + 1, state));
  EXPECT_LE(difference(at::cat(parts, 1), run_forward(*mixer, x)), allowed.value) << "seed " << seed;
}

TEST_P(MixerSuite, ForwardWithCarryEqualsOneForward) {
  const at::Tensor whole = run_forward(*mixer, x);
  for (int64_t cut : {1, 16, 19, 36}) {
    nn::State carry;
    const at::Tensor first = run_forward(*mixer, x.slice(1, 0, cut).contiguous(), &carry);
    at::NoGradGuard no_grad;
    std::vector<nn::Segment> segments(rows);
    for (int32_t row = 0; row < rows; ++row)
      segments[row] = {.row = row,
                       .begin = 0,
                       .end = static_cast<int32_t>(tokens - cut),
                       .pos0 = static_cast<int32_t>(cut),
                       .from = row,
                       .to = row};
    const nn::Layout layout(rows, tokens - cut, segments, device);
    nn::Call call{layout};
    call.carry = &carry;
    const at::Tensor second = mixer->forward(x.slice(1, cut).contiguous(), call);
    EXPECT_LE(difference(at::cat({first, second}, 1), whole), allowed.value) << "cut " << cut << ", seed " << seed;
  }
}

TEST_P(MixerSuite, GradientsFlowThroughTheCarriedState) {
  const at::Tensor dy = random_input(rows, tokens, seed + 1);
  const nn::Layout whole = nn::Layout::uniform(rows, tokens, device);
  const auto expected = gradients(*mixer, x, dy, whole);
  for (int64_t cut : {16, 19}) {
    mixer->each_param([](const std::string&, nn::Param& p) { p.master().mutable_grad() = at::Tensor(); });
    at::Tensor leaf = x.detach().clone().set_requires_grad(true);
    const nn::Layout head = nn::Layout::uniform(rows, cut, device, true);
    std::vector<nn::Segment> segments = head.segments();
    for (nn::Segment& s : segments) s.end = static_cast<int32_t>(tokens - cut), s.pos0 = static_cast<int32_t>(cut);
    const nn::Layout tail(rows, tokens - cut, segments, device);
    nn::State carry;
    nn::Call first{head}, second{tail};
    first.carry = second.carry = &carry;
    first.mode = second.mode = nn::Mode::train;
    const at::Tensor a = mixer->forward(leaf.slice(1, 0, cut), first);
    const at::Tensor b = mixer->forward(leaf.slice(1, cut), second);
    torch::autograd::backward({at::cat({a, b}, 1)}, {dy.to(device, dtype)});
    EXPECT_LE(difference(leaf.grad(), expected.at("x")), allowed.gradient) << "cut " << cut << ", seed " << seed;
    mixer->each_param([&](const std::string& name, nn::Param& p) {
      EXPECT_LE(difference(p.master().grad(), expected.at(name)), allowed.gradient) << name << ", cut " << cut;
    });
  }
}

TEST_P(MixerSuite, ALaterTokenChangesNoEarlierBit) {
  if (mixer->traits().causal != nn::Causal::strict) GTEST_SKIP() << "this mixer is not strictly causal";
  const at::Tensor before = run_forward(*mixer, x);
  for (int64_t t : {0, 7, 16, 30}) {
    at::Tensor changed = x.clone();
    changed.select(1, t).add_(1);
    const at::Tensor after = run_forward(*mixer, changed);
    EXPECT_TRUE(unchanged(after.slice(1, 0, t), before.slice(1, 0, t))) << "token " << t << ", seed " << seed;
    EXPECT_GT(difference(after.select(1, t), before.select(1, t)), 1e-4) << "token " << t << " must change itself";
  }
}

TEST_P(MixerSuite, GradientsEqualFloat64) {
  auto exact = make_mixer(GetParam(), at::kDouble, seed);
  const at::Tensor dy = random_input(rows, tokens, seed + 1);
  const nn::Layout layout = nn::Layout::uniform(rows, tokens, device);
  const auto expected = gradients(*exact, x.to(at::kDouble), dy, layout);
  const auto got = gradients(*mixer, x, dy, layout);
  for (const auto& [name, value] : expected)
    EXPECT_LE(difference(got.at(name), value), allowed.gradient) << name << ", seed " << seed;
  EXPECT_LE(difference(run_forward(*mixer, x), run_forward(*exact, x.to(at::kDouble))), allowed.value);
}

TEST_P(MixerSuite, Float64GradientsEqualFiniteDifferences) {
  if (dtype != at::kDouble || device.is_cuda())
    GTEST_SKIP() << "float64 on the CPU only; the others are compared with float64";
  const nn::Layout layout = nn::Layout::uniform(1, 9);
  const at::Tensor input = random_input(1, 9, seed), dy = random_input(1, 9, seed + 1);
  const auto analytic = gradients(*mixer, input, dy, layout);
  auto loss = [&](const at::Tensor& at_x) { return (run_forward(*mixer, at_x, layout) * dy).sum().item<double>(); };
  // A central difference of step h is wrong by h^2 of the third derivative and by 1e-16 / h of rounding.
  const double h = 1e-5, error = 1e-6;
  auto compare = [&](const at::Tensor& values, const at::Tensor& gradient, const std::string& name) {
    at::NoGradGuard no_grad;
    double* data = values.data_ptr<double>();
    const int64_t stride = std::max<int64_t>(1, values.numel() / 12);
    const double scale = gradient.abs().max().item<double>();
    for (int64_t i = 0; i < values.numel(); i += stride) {
      const double kept = data[i];
      data[i] = kept + h;
      mixer->each_param([](const std::string&, nn::Param& p) { p.changed(); });
      const double up = loss(input);
      data[i] = kept - h;
      mixer->each_param([](const std::string&, nn::Param& p) { p.changed(); });
      const double down = loss(input);
      data[i] = kept;
      EXPECT_NEAR((up - down) / (2 * h), gradient.flatten()[i].item<double>(), error * std::max(1.0, scale))
          << name << i;
    }
    mixer->each_param([](const std::string&, nn::Param& p) { p.changed(); });
  };
  compare(input, analytic.at("x"), "x");
  mixer->each_param([&](const std::string& name, nn::Param& p) { compare(p.master(), analytic.at(name), name); });
}

// Three documents in two rows, with padding between and behind.
nn::Layout packed_layout(at::Device device) {
  return nn::Layout(2, 37,
                    {{.row = 0, .begin = 0, .end = 17},
                     {.row = 0, .begin = 17, .end = 34, .doc = 1},
                     {.row = 1, .begin = 3, .end = 30, .doc = 2}},
                    device);
}

TEST_P(MixerSuite, PackedDocumentsEqualSeparateOnes) {
  const nn::Layout packed = packed_layout(device);
  const at::Tensor dy = random_input(rows, tokens, seed + 1);
  const at::Tensor together = run_forward(*mixer, x, packed);
  const auto packed_gradients = gradients(*mixer, x, dy, packed);
  at::Tensor dx = at::zeros_like(packed_gradients.at("x"));
  for (const nn::Segment& s : packed.segments()) {
    const at::Tensor part = x.slice(0, s.row, s.row + 1).slice(1, s.begin, s.end).contiguous();
    EXPECT_LE(difference(together.slice(0, s.row, s.row + 1).slice(1, s.begin, s.end), run_forward(*mixer, part)),
              allowed.value)
        << "document " << s.doc << ", seed " << seed;
    const nn::Layout alone = nn::Layout::uniform(1, s.length(), device);
    const at::Tensor part_dy = dy.slice(0, s.row, s.row + 1).slice(1, s.begin, s.end).contiguous();
    dx.slice(0, s.row, s.row + 1).slice(1, s.begin, s.end).copy_(gradients(*mixer, part, part_dy, alone).at("x"));
  }
  EXPECT_LE(difference(packed_gradients.at("x"), dx), allowed.gradient) << "seed " << seed;
}

TEST_P(MixerSuite, PaddingIsInertAndGetsZeros) {
  const nn::Layout packed = packed_layout(device);
  const at::Tensor inside = packed.valid().view({rows, tokens, 1});
  at::Tensor other = at::where(inside, x, at::full_like(x, 3));
  const at::Tensor y = run_forward(*mixer, x, packed);
  EXPECT_TRUE(unchanged(run_forward(*mixer, other, packed), y)) << "seed " << seed;
  EXPECT_EQ(y.masked_select(inside.logical_not()).abs().sum().item<double>(), 0);
  const at::Tensor dx = gradients(*mixer, x, random_input(rows, tokens, seed + 1), packed).at("x");
  EXPECT_EQ(dx.masked_select(inside.logical_not()).abs().sum().item<double>(), 0);
}

TEST_P(MixerSuite, BatchNeighborsDoNotMatter) {
  if (mixer->traits().batch_coupled) GTEST_SKIP() << "rows of this mixer are coupled";
  const at::Tensor both = run_forward(*mixer, x);
  at::Tensor other = x.clone();
  other.select(0, 1).add_(1);
  EXPECT_TRUE(unchanged(run_forward(*mixer, other).select(0, 0), both.select(0, 0))) << "seed " << seed;
}

TEST_P(MixerSuite, StepsOnTheDeviceEqualSegments) {
  if (!mixer->traits().takes_steps) GTEST_SKIP() << "this mixer takes segments only";
  if (dtype == at::kDouble) GTEST_SKIP() << "steps are for types that have kernels";
  at::NoGradGuard no_grad;
  // State row 2 stands at 14 tokens, row 0 at 3; row 1 is idle and scribbles on its entry 0 every time.
  nn::State by_segments = fresh_state(3), by_steps = fresh_state(3);
  for (nn::State* s : {&by_segments, &by_steps}) {
    const nn::Layout prompts(1, 17,
                             {{.row = 0, .begin = 0, .end = 14, .from = -1, .to = 2},
                              {.row = 0, .begin = 14, .end = 17, .from = -1, .to = 0}},
                             device);
    nn::Call call{prompts};
    mixer->extend(x.slice(1, 0, 17).slice(0, 0, 1).contiguous(), *s, call);
  }
  const auto places = at::TensorOptions().dtype(at::kInt);
  const at::Tensor state_rows = at::tensor({2, 1, 0}, places).to(device);
  at::Tensor positions = at::tensor({14, 0, 3}, places).to(device);
  const at::Tensor advance = at::tensor({1, 0, 1}, places).to(device);
  for (int32_t t = 0; t < 20; ++t) {
    const at::Tensor input = x.slice(1, t, t + 3).slice(0, 1, 2).contiguous();
    const nn::Layout segments(1, 3,
                              {{.row = 0, .begin = 0, .end = 1, .pos0 = 14 + t, .from = 2, .to = 2},
                               {.row = 0, .begin = 1, .end = 2, .from = -1, .to = 1},
                               {.row = 0, .begin = 2, .end = 3, .pos0 = 3 + t, .from = 0, .to = 0}},
                              device);
    nn::Call expected_call{segments};
    const at::Tensor expected = mixer->extend(input, by_segments, expected_call);
    const nn::Layout steps =
        nn::Layout::step({.rows = state_rows, .positions = positions, .state_rows = 3, .limit = tokens});
    nn::Call call{steps};
    ASSERT_TRUE(same_bits(mixer->extend(input, by_steps, call), expected)) << "step " << t << ", seed " << seed;
    positions.add_(advance);
  }
  for (const auto& [name, tensor] : by_steps.t) EXPECT_TRUE(same_bits(tensor, by_segments.t.at(name))) << name;
}

TEST_P(MixerSuite, RaggedExtendEqualsSeparateSequences) {
  if (mixer->traits().step != nn::StepForm::exact) GTEST_SKIP() << "this mixer's step is not exact";
  at::NoGradGuard no_grad;
  // Sequence 0 stands at 20 tokens, sequence 1 at 3; one packed row brings 5 and 11 more, sequence 1 first.
  nn::State state = fresh_state(), expected = fresh_state();
  auto feed = [&](nn::State& into, int32_t row, int64_t from, int64_t to) {
    const nn::Layout layout(1, to - from,
                            {{.row = 0,
                              .begin = 0,
                              .end = static_cast<int32_t>(to - from),
                              .pos0 = static_cast<int32_t>(from),
                              .from = from ? row : -1,
                              .to = row}},
                            device);
    nn::Call call{layout};
    return mixer->extend(x.slice(0, row, row + 1).slice(1, from, to).contiguous(), into, call);
  };
  for (nn::State* s : {&state, &expected}) feed(*s, 0, 0, 20), feed(*s, 1, 0, 3);
  const at::Tensor alone = at::cat({feed(expected, 1, 3, 14), feed(expected, 0, 20, 25)}, 1);
  const nn::Layout ragged(1, 16,
                          {{.row = 0, .begin = 0, .end = 11, .pos0 = 3, .from = 1, .to = 1},
                           {.row = 0, .begin = 11, .end = 16, .pos0 = 20, .from = 0, .to = 0}},
                          device);
  nn::Call call{ragged};
  const at::Tensor input =
      at::cat({x.slice(0, 1, 2).slice(1, 3, 14), x.slice(0, 0, 1).slice(1, 20, 25)}, 1).contiguous();
  EXPECT_LE(difference(mixer->extend(input, state, call), alone), allowed.value) << "seed " << seed;
  const at::Tensor next = run_extend(*mixer, x.slice(0, 0, 1), 25, 26, state);
  EXPECT_LE(difference(next, run_forward(*mixer, x).slice(0, 0, 1).slice(1, 25, 26)), allowed.value) << "seed " << seed;
}

TEST_P(MixerSuite, GatheredRowsContinueTheirSequence) {
  nn::State state = fresh_state();
  if (state.t.empty()) GTEST_SKIP() << "no state";
  run_extend(*mixer, x, 0, 21, state);
  nn::State swapped = state.rows(at::tensor({1, 0}, at::kLong));
  const at::Tensor flipped = x.flip(0);
  const at::Tensor a = run_extend(*mixer, x, 21, 37, state), b = run_extend(*mixer, flipped, 21, 37, swapped);
  EXPECT_LE(difference(b.flip(0), a), allowed.value) << "seed " << seed;
}

TEST_P(MixerSuite, TruncationResumesWhereTheSpecificationSays) {
  const nn::StateSpec spec = mixer->state_spec();
  if (spec.empty()) GTEST_SKIP() << "no state";
  nn::State state = fresh_state();
  run_extend(*mixer, x, 0, 37, state);
  state.length.fill_(37);
  if (spec.resume == 0) {
    EXPECT_THROW(state.truncate(spec, 0, 16), std::exception);
    return;
  }
  if (spec.resume > 37) GTEST_SKIP() << "resumes only at the start";
  const int64_t cut = 32 / spec.resume * spec.resume;
  for (int64_t row = 0; row < rows; ++row) state.truncate(spec, row, cut);
  const at::Tensor again = run_extend(*mixer, x, cut, 37, state);
  EXPECT_LE(difference(again, run_forward(*mixer, x).slice(1, cut)), allowed.value) << "seed " << seed;
  if (spec.resume > 1) {
    EXPECT_THROW(state.truncate(spec, 0, 1), std::exception);
  }
}

// A core from outside sees every softmax attention and may replace it.
class CountingCore : public nn::AttentionCore {
 public:
  nn::AttnOut attend(const nn::AttnIn& in, nn::Call& call) override {
    ++calls;
    return nn::reference_core().attend(in, call);
  }
  int calls = 0;
};

TEST_P(MixerSuite, AnAttentionCoreFromOutsideGivesTheSame) {
  const nn::Layout layout = packed_layout(device);
  CountingCore core;
  at::NoGradGuard no_grad;
  nn::Call call{layout};
  call.core = &core;
  const at::Tensor y = mixer->forward(x, call);
  EXPECT_LE(difference(y, run_forward(*mixer, x, layout)), allowed.value) << "seed " << seed;
  EXPECT_EQ(core.calls, GetParam().attends ? 1 : 0);
}

INSTANTIATE_TEST_SUITE_P(Mixers, MixerSuite, testing::ValuesIn(cases()), name_of);

}  // namespace rattan::mixer_suite
