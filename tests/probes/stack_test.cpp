// Blocks and stacks: a residual rule of its own, post-norm, one block applied several times with a state for each
// application, and a stack run in two halves.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/zeros_like.h>

#include "tests/probes/probe.h"

namespace rattan::probes {
namespace stack_test_file {

constexpr int64_t dim = 8;

// x + sigmoid(g) branch, a gate a channel (highway-like; learned).
class Gate : public nn::Residual {
 public:
  Gate() : gate_(param("gate", {dim}, nn::Init::normal(1))) {}
  void join(nn::Stream& stream, at::Tensor branch, nn::Call&) override {
    stream.resolve();
    stream.x = stream.x + at::sigmoid(gate_(stream.x.scalar_type())) * branch;
  }

 private:
  nn::Param& gate_;
};

// y_t = w x_t + sum of x so far: a state that differs with every application.
class Running : public nn::Mixer {
 public:
  Running() : weight_(param("weight", {dim}, nn::Init::normal(1))) {}
  at::Tensor forward(const at::Tensor& x, nn::Call&) override { return x * weight_(x.scalar_type()) + x.cumsum(1); }
  at::Tensor extend(const at::Tensor& x, nn::State& state, nn::Call&) override {
    const at::Tensor sum = x.cumsum(1) + state.t.at("sum").unsqueeze(1);
    state.t.at("sum").copy_(sum.select(1, -1));
    return x * weight_(x.scalar_type()) + sum;
  }
  nn::StateSpec state_spec() const override {
    nn::StateSpec spec;
    spec.fields = {{.name = "sum", .shape = {dim}}};
    return spec;
  }
  double flops_per_token(int64_t) const override { return 1; }

 private:
  nn::Param& weight_;
};

nn::Branch branch(nn::Place place, std::unique_ptr<nn::Residual> join) {
  auto norm = place == nn::Place::none ? nullptr : std::make_unique<nn::RmsNorm>(dim, 1e-6);
  return {place, std::move(norm), std::make_unique<Running>(), std::move(join)};
}

class StackTest : public testing::Test {
 protected:
  at::Tensor x = random({2, 5, dim}, 1);
  nn::Layout layout = nn::Layout::uniform(2, 5);
  nn::Call call{layout};
  // fp32 sums of a few terms of size ten.
  static constexpr double rounding = 1e-5;
  static at::Tensor norm(const at::Tensor& s) { return s / (s.pow(2).mean(-1, true) + 1e-6).sqrt(); }

  std::map<std::string, at::Tensor> masters(Blocks& blocks) {
    std::map<std::string, at::Tensor> out;
    blocks.stack.each_param([&](const std::string& name, nn::Param& p) { out[name] = p.master().detach(); });
    return out;
  }
};

TEST_F(StackTest, AResidualRuleMayBeLearned) {
  Blocks blocks;
  for (int i = 0; i < 2; ++i) blocks.add(branch(nn::Place::pre, std::make_unique<Gate>()));
  blocks.stack.initialize(2);
  auto w = masters(blocks);
  at::Tensor expected = x;
  for (const std::string i : {"0", "1"}) {
    const at::Tensor in = norm(expected), gate = at::sigmoid(w.at("layers." + i + ".mixer_join.gate"));
    expected = expected + gate * (in * w.at("layers." + i + ".mixer.weight") + in.cumsum(1));
  }
  EXPECT_LT(distance(blocks.forward(x, call), expected), rounding);
  const auto plain = gradients(blocks, x, call);
  EXPECT_GT(plain.at("layers.0.mixer_join.gate").abs().min().item<double>(), 0);
  blocks.stack.checkpoint = true;
  expect_same(gradients(blocks, x, call), plain);
}

TEST_F(StackTest, PostNormFollowsTheAddition) {
  Blocks blocks;
  for (int i = 0; i < 2; ++i) blocks.add(branch(nn::Place::post, std::make_unique<nn::AddResidual>()));
  blocks.stack.initialize(2);
  auto w = masters(blocks);
  at::Tensor expected = x;
  for (const std::string i : {"0", "1"})
    expected = norm(expected + expected * w.at("layers." + i + ".mixer.weight") + expected.cumsum(1));
  EXPECT_LT(distance(blocks.forward(x, call), expected), rounding);
}

TEST_F(StackTest, OneBlockAppliedThreeTimesHasThreeStates) {
  Blocks blocks;
  blocks.add(branch(nn::Place::pre, std::make_unique<nn::AddResidual>()));
  blocks.stack.set_plan({0, 0, 0});
  blocks.stack.initialize(2);
  EXPECT_EQ(blocks.stack.parameters(), 2 * dim) << "shared, so counted once";
  EXPECT_EQ(blocks.stack.flops_per_token(5), 3) << "applied three times";
  const nn::StateSpec spec = blocks.stack.state_spec();
  EXPECT_EQ(spec.child.size(), 3u);
  nn::State state = nn::make_state(spec, 2, 5, at::kFloat);
  std::vector<at::Tensor> parts;
  for (int32_t t = 0; t < 5; ++t) {
    const nn::Layout one(2, 1,
                         {{.row = 0, .begin = 0, .end = 1, .pos0 = t, .from = 0, .to = 0},
                          {.row = 1, .begin = 0, .end = 1, .pos0 = t, .from = 1, .to = 1}});
    nn::Call step{one};
    parts.push_back(blocks.extend(x.slice(1, t, t + 1).contiguous(), state, step));
  }
  EXPECT_LT(distance(at::cat(parts, 1), blocks.forward(x, call)), rounding);
  EXPECT_GT(
      distance(state.child.at("0").child.at("mixer").t.at("sum"), state.child.at("2").child.at("mixer").t.at("sum")),
      0.1);
  EXPECT_EQ(state.length[1].item<int64_t>(), 5);
}

TEST_F(StackTest, TwoHalvesEqualTheWhole) {
  Blocks blocks;
  for (int i = 0; i < 3; ++i) blocks.add(branch(nn::Place::pre, std::make_unique<nn::AddResidual>()));
  blocks.stack.set_plan({0, 1, 2, 1});
  blocks.stack.initialize(2);
  const at::Tensor whole = blocks.forward(x, call);
  const at::Tensor half = blocks.forward(x, call, 0, 2);
  EXPECT_LT(distance(blocks.forward(half, call, 2), whole), rounding);
  // Without resolving in between, the very same kernels run.
  nn::Stream stream{x, {}};
  blocks.stack.forward(stream, call, 0, 2);
  blocks.stack.forward(stream, call, 2, 4);
  EXPECT_TRUE(same_bits(stream.resolve(), whole));

  const nn::Layout rows = nn::Layout::uniform(2, 5, at::kCPU, true);
  nn::Call step{rows};
  nn::State state = nn::make_state(blocks.stack.state_spec(), 2, 5, at::kFloat);
  const at::Tensor middle = blocks.extend(x, state, step, 0, 3);
  EXPECT_LT(distance(blocks.extend(middle, state, step, 3), whole), rounding);
}

}  // namespace stack_test_file
}  // namespace rattan::probes
