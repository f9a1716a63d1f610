// State as a tree: a mixer made of two others, with a child state for each; truncated backpropagation.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/tensor.h>

#include "rattan/base/config.h"
#include "rattan/nn/mixers/registry.h"
#include "tests/probes/probe.h"

namespace rattan::probes {
namespace state_test_file {

std::unique_ptr<nn::Mixer> registered(const std::string& options) {
  nn::MixerConfig config;
  ConfigTree::from_text(options, "probe").read(config);
  return config.make({.d_model = 16, .init_std = 0.3});
}

// A recurrence and a window side by side, and a running sum of its own beside their states.
class Pair : public nn::Mixer {
 public:
  Pair() : fast_(registered("type = 'swa'\nn_heads = 2\nwindow = 2")), slow_(registered("type = 'rnn'\nmemory = 8")) {
    child("fast", *fast_);
    child("slow", *slow_);
  }
  at::Tensor forward(const at::Tensor& x, nn::Call& call) override {
    nn::State* carry = call.carry;
    auto in = [&](const char* name) { call.carry = carry ? &carry->child[name] : nullptr; };
    in("fast");
    at::Tensor y = fast_->forward(x, call);
    in("slow");
    y = y + slow_->forward(x, call);
    call.carry = carry;
    at::Tensor sum = x.cumsum(1);
    if (carry && carry->t.contains("sum")) sum = sum + carry->t.at("sum").unsqueeze(1);
    if (carry) carry->t["sum"] = sum.select(1, -1);
    return y + sum;
  }
  at::Tensor extend(const at::Tensor& x, nn::State& state, nn::Call& call) override {
    const at::Tensor y =
        fast_->extend(x, state.child.at("fast"), call) + slow_->extend(x, state.child.at("slow"), call);
    const at::Tensor sum = x.cumsum(1) + state.t.at("sum").unsqueeze(1);
    state.t.at("sum").copy_(sum.select(1, -1));
    return y + sum;
  }
  nn::StateSpec state_spec() const override {
    nn::StateSpec spec;
    spec.fields = {{.name = "sum", .dtype = at::kFloat, .shape = {16}}};
    spec.child = {{"fast", fast_->state_spec()}, {"slow", slow_->state_spec()}};
    spec.resume = 0;
    return spec;
  }
  double flops_per_token(int64_t tokens) const override {
    return fast_->flops_per_token(tokens) + slow_->flops_per_token(tokens);
  }

 private:
  std::unique_ptr<nn::Mixer> fast_, slow_;
};

class StateTest : public testing::Test {
 protected:
  static constexpr int64_t rows = 2, tokens = 11;
  // fp32 sums of a few dozen terms of size one, in another order.
  static constexpr double rounding = 2e-5;
  void SetUp() override { pair.initialize(5); }

  nn::Layout piece(int64_t from, int64_t to) const {
    std::vector<nn::Segment> segments;
    for (int32_t row = 0; row < rows; ++row)
      segments.push_back({.row = row,
                          .begin = 0,
                          .end = static_cast<int32_t>(to - from),
                          .pos0 = static_cast<int32_t>(from),
                          .from = row,
                          .to = row});
    return {rows, to - from, segments};
  }
  at::Tensor forward(const at::Tensor& input, int64_t from, int64_t to, nn::State* carry) {
    const nn::Layout layout = piece(from, to);
    nn::Call call{layout};
    call.carry = carry;
    return pair.forward(input.slice(1, from, to), call);
  }
  at::Tensor extend(const at::Tensor& input, int64_t from, int64_t to, nn::State& state) {
    at::NoGradGuard no_grad;
    const nn::Layout layout = piece(from, to);
    nn::Call call{layout};
    return pair.extend(input.slice(1, from, to).contiguous(), state, call);
  }
  nn::State fresh() { return nn::make_state(pair.state_spec(), rows, tokens, at::kFloat); }

  Pair pair;
  at::Tensor x = random({rows, tokens, 16}, 6);
};

TEST_F(StateTest, ExtendEqualsForward) {
  nn::State state = fresh();
  EXPECT_EQ(state.child.size(), 2u);
  const at::Tensor y = at::cat({extend(x, 0, 4, state), extend(x, 4, 5, state), extend(x, 5, 11, state)}, 1);
  EXPECT_LT(distance(y, forward(x, 0, tokens, nullptr)), rounding);
}

TEST_F(StateTest, CarriedForwardEqualsOneForward) {
  nn::State carry;
  const at::Tensor y = at::cat({forward(x, 0, 4, &carry), forward(x, 4, 11, &carry)}, 1);
  EXPECT_LT(distance(y, forward(x, 0, tokens, nullptr)), rounding);
  EXPECT_TRUE(carry.child.contains("fast") && carry.child.contains("slow"));
}

TEST_F(StateTest, RowsGathersTheWholeTree) {
  nn::State state = fresh();
  extend(x, 0, 7, state);
  nn::State swapped = state.rows(at::tensor({1, 0}, at::kLong));
  EXPECT_LT(distance(extend(x.flip(0), 7, 11, swapped).flip(0), extend(x, 7, 11, state)), rounding);
}

TEST_F(StateTest, BytesCountTheWholeTree) {
  // Of one sequence: the sum and h, 16 floats each, and 3 keys and values of 16 floats.
  EXPECT_EQ(pair.state_spec().bytes(tokens, at::kFloat), 4 * (16 + 16 + 2 * 3 * 16));
  EXPECT_EQ(fresh().bytes(), rows * pair.state_spec().bytes(tokens, at::kFloat));
}

TEST_F(StateTest, GradientsStopAtADetachedState) {
  const at::Tensor dy = random({rows, 7, 16}, 8);
  for (bool truncated : {false, true}) {
    SCOPED_TRACE(truncated ? "detached" : "attached");
    at::Tensor leaf = x.detach().clone().set_requires_grad(true);
    nn::State carry;
    forward(leaf, 0, 4, &carry);
    if (truncated) carry = carry.detach();
    torch::autograd::backward({forward(leaf, 4, 11, &carry)}, {dy});
    const double past = leaf.grad().slice(1, 0, 4).abs().max().item<double>();
    EXPECT_EQ(past == 0, truncated) << past;
    EXPECT_GT(leaf.grad().slice(1, 4).abs().max().item<double>(), 0);
  }
}

TEST_F(StateTest, AParentCanBeCutOnlyWhereAllItsChildrenCan) {
  nn::State state = fresh();
  extend(x, 0, 7, state);
  state.length.fill_(7);
  EXPECT_THROW(state.truncate(pair.state_spec(), 0, 3), std::exception);
}

}  // namespace state_test_file
}  // namespace rattan::probes
