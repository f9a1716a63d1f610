// A block of pre-norm branches runs the same in one forward and in extend, whether a branch adds itself to the stream
// or stays pending, and so do its gradients; a stream that is not the block's own is left alone.
#include "rattan/nn/block.h"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "rattan/base/config.h"
#include "rattan/nn/ffn.h"
#include "rattan/nn/mixers/registry.h"
#include "rattan/ops/ops.h"
#include "tests/nn/mixer_fixture.h"

namespace rattan::nn::block_test_file {

constexpr int64_t rows = 4, tokens = 600, d_model = 64;  // enough tokens for a product that adds itself

struct Built {
  explicit Built(at::ScalarType type, at::Device device) : compute(type), block(&compute) {
    for (const char* options : {"type = 'rat'\nn_heads = 4\nn_groups = 2\nchunk = 16\n", "type = 'rnn'\n",
                                "type = 'swa'\nn_heads = 4\nwindow = 32\n"}) {
      MixerConfig mixer;
      ConfigTree::from_text(options, "test").read(mixer);
      add("mixer" + std::to_string(block.branches().size()), mixer.make({.d_model = d_model}));
    }
    add("ffn", make_ffn("gelu", 2 * d_model, {.d_model = d_model}));
    block.initialize(3, at::kFloat, device);
  }
  void add(const std::string& name, std::unique_ptr<Mixer> mixer) {
    block.add(name, {Place::pre, std::make_unique<RmsNorm>(d_model, 1e-6), std::move(mixer),
                     std::make_unique<AddResidual>()});
  }
  at::ScalarType compute;
  Block block;
};

class BlockExtends : public ::testing::TestWithParam<std::pair<at::Device, at::ScalarType>> {};

TEST_P(BlockExtends, LikeForward) {
  const auto [device, type] = GetParam();
  if (device.is_cuda() && !at::hasCUDA()) GTEST_SKIP() << "no GPU";
  at::NoGradGuard no_grad;
  Built built(type, device);
  const at::Tensor x = at::randn({rows, tokens, d_model}, at::TensorOptions().dtype(at::kFloat).device(device));
  const at::Tensor before = x.clone();
  const Layout plain = Layout::uniform(rows, tokens, device), stateful = Layout::uniform(rows, tokens, device, true);
  Call forward{plain};
  Stream whole{x};
  built.block.forward(whole, forward);
  // bf16 rounds each of four branches, of size one, to 2^-9; what adds itself is not rounded at all.
  const double allowed = type == at::kBFloat16 ? 0.1 : 1e-4;
  for (bool owned : {false, true}) {
    State state = make_state(built.block.state_spec(), rows, tokens, type, device);
    Call call{stateful};
    Stream stream{owned ? x.clone() : x, {}, {}, owned};
    const at::Tensor given = stream.x;
    built.block.extend(stream, state, call);
    EXPECT_EQ(call.stream, nullptr);
    const bool adds_itself = device.is_cuda() && type == at::kBFloat16;
    EXPECT_EQ(stream.pending.defined(), !adds_itself);
    EXPECT_EQ(owned && adds_itself, given.data_ptr() == stream.x.data_ptr()) << "an owned stream is added to in place";
    Stream expected = whole;
    EXPECT_LE((stream.resolve() - expected.resolve()).abs().max().item<double>(), allowed) << "owned " << owned;
    EXPECT_TRUE(x.equal(before)) << "a stream that is not owned was written";
  }
}

// As decoding steps are taken: with few rows a norm is left to the product after it, where there is a kernel for both.
TEST_P(BlockExtends, TokenByTokenLikeForward) {
  const auto [device, type] = GetParam();
  if (device.is_cuda() && !at::hasCUDA()) GTEST_SKIP() << "no GPU";
  at::NoGradGuard no_grad;
  Built built(type, device);
  const int64_t steps = 40, few = 2;
  const at::Tensor x = at::randn({few, steps, d_model}, at::TensorOptions().dtype(at::kFloat).device(device));
  const Layout plain = Layout::uniform(few, steps, device);
  Call forward{plain};
  Stream whole{x};
  built.block.forward(whole, forward);
  const at::Tensor expected = whole.resolve();
  State state = make_state(built.block.state_spec(), few, steps, type, device);
  ops::FewRowsScope few_rows;
  EXPECT_EQ(ops::joins_norm(x.narrow(1, 0, 1), built.compute), device.is_cuda() && type == at::kBFloat16);
  for (int64_t t = 0; t < steps; ++t) {
    std::vector<Segment> segments;
    for (int32_t row = 0; row < few; ++row)
      segments.push_back({.row = row, .end = 1, .pos0 = static_cast<int32_t>(t), .from = t == 0 ? -1 : row, .to = row});
    const Layout layout(few, 1, segments, device);
    Call call{layout};
    Stream stream{x.narrow(1, t, 1).clone(), {}, {}, true};
    built.block.extend(stream, state, call);
    EXPECT_EQ(call.norm, nullptr);
    const double difference = (stream.resolve() - expected.narrow(1, t, 1)).abs().max().item<double>();
    ASSERT_LE(difference, type == at::kBFloat16 ? 0.1 : 1e-4) << "token " << t;  // as above
  }
}

struct Gradients {
  at::Tensor y, d_x;
  std::vector<at::Tensor> parameters;
};

// Of `block` applied twice, with the stream given away or kept.
Gradients gradients_of(Built& built, const at::Tensor& x, const at::Tensor& d_y, bool owned) {
  const Layout layout = Layout::uniform(rows, tokens, x.device());
  Call call{layout};
  call.mode = Mode::train;
  const at::Tensor leaf = x.clone().set_requires_grad(true);
  Stream stream{leaf * 1, {}, {}, owned};
  for (int pass = 0; pass < 2; ++pass) built.block.forward(stream, call);
  const bool adds_itself = x.is_cuda() && built.compute == at::kBFloat16;
  EXPECT_EQ(stream.added.defined(), adds_itself);
  Gradients out;
  RmsNorm last(d_model, 1e-6);
  last.initialize(4, at::kFloat, x.device());
  out.y = last.join(stream, built.compute);
  torch::autograd::backward({out.y}, {d_y});
  out.d_x = leaf.grad();
  built.block.each_param([&](const std::string&, Param& p) {
    out.parameters.push_back(p.master().grad());
    p.master().mutable_grad() = at::Tensor();
  });
  return out;
}

// The first branch of a kept stream stays pending, all others add themselves where that is possible.
TEST_P(BlockExtends, GradientsOfBranchesThatAddThemselves) {
  const auto [device, type] = GetParam();
  if (device.is_cuda() && !at::hasCUDA()) GTEST_SKIP() << "no GPU";
  Built built(type, device), precise(at::kFloat, device);
  const auto options = at::TensorOptions().dtype(at::kFloat).device(device);
  const at::Tensor x = at::randn({rows, tokens, d_model}, options), d_y = at::randn({rows, tokens, d_model}, options);
  const at::Tensor before = x.clone();
  const Gradients expected = gradients_of(precise, x, d_y, false);
  // fp32: the same operations. bf16: eight branches forward and backward, each rounded to 2^-9 at several places.
  const double allowed = type == at::kBFloat16 ? 0.04 : 1e-5;
  auto error = [](const at::Tensor& a, const at::Tensor& b) {
    return ((a.to(at::kDouble) - b.to(at::kDouble)).norm() / b.to(at::kDouble).norm()).item<double>();
  };
  for (bool owned : {false, true}) {
    SCOPED_TRACE(owned ? "owned" : "kept");
    const Gradients got = gradients_of(built, x, d_y.to(type), owned);
    EXPECT_LE(error(got.y, expected.y), allowed);
    EXPECT_LE(error(got.d_x, expected.d_x), allowed);
    for (std::size_t i = 0; i < expected.parameters.size(); ++i)
      EXPECT_LE(error(got.parameters[i], expected.parameters[i]), allowed) << i;
    EXPECT_TRUE(x.equal(before));
  }
}

// Micro-batches: what a second backward pass adds to the gradients is what it would have made alone.
TEST_P(BlockExtends, GradientsAddUp) {
  const auto [device, type] = GetParam();
  if (device.is_cuda() && !at::hasCUDA()) GTEST_SKIP() << "no GPU";
  Built built(type, device);
  const Layout layout = Layout::uniform(rows, tokens, device);
  const auto options = at::TensorOptions().dtype(at::kFloat).device(device);
  const at::Tensor x[2] = {at::randn({rows, tokens, d_model}, options), at::randn({rows, tokens, d_model}, options)};
  const at::Tensor d_y = at::randn({rows, tokens, d_model}, options);
  auto backward = [&](const at::Tensor& batch) {
    Call call{layout};
    call.mode = Mode::train;
    Stream stream{batch.clone().set_requires_grad(true) * 1, {}, {}, true};
    built.block.forward(stream, call);
    torch::autograd::backward({stream.resolve()}, {d_y});
  };
  auto take = [&](bool clear) {
    std::vector<at::Tensor> out;
    built.block.each_param([&](const std::string&, Param& p) {
      out.push_back(p.master().grad().clone());
      if (clear) p.master().mutable_grad() = at::Tensor();
    });
    return out;
  };
  backward(x[0]);
  const auto first = take(true);
  backward(x[1]);
  const auto second = take(false);
  backward(x[0]);
  const auto both = take(true);
  // Sums of 2,400 rows in fp32, once more added up in another order.
  for (std::size_t i = 0; i < both.size(); ++i)
    EXPECT_LE(((both[i] - first[i] - second[i]).norm() / both[i].norm()).item<double>(), 1e-5) << i;
}

INSTANTIATE_TEST_SUITE_P(Types, BlockExtends,
                         ::testing::Values(std::pair{at::Device(at::kCPU), at::kFloat},
                                           std::pair{at::Device(at::kCPU), at::kBFloat16},
                                           std::pair{at::Device(at::kCUDA, 0), at::kFloat},
                                           std::pair{at::Device(at::kCUDA, 0), at::kBFloat16}));

}  // namespace rattan::nn::block_test_file
