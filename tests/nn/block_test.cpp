// A block of pre-norm branches runs the same in one forward and in extend, whether a branch adds itself to the stream
// or stays pending; and extend leaves a stream alone that is not its own.
#include "rattan/nn/block.h"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include "rattan/base/config.h"
#include "rattan/nn/ffn.h"
#include "rattan/nn/mixers/registry.h"
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
  Stream whole{x, {}};
  built.block.forward(whole, forward);
  // bf16 rounds each of four branches, of size one, to 2^-9; what adds itself is not rounded at all.
  const double allowed = type == at::kBFloat16 ? 0.1 : 1e-4;
  for (bool owned : {false, true}) {
    State state = make_state(built.block.state_spec(), rows, tokens, type, device);
    Call call{stateful};
    Stream stream{owned ? x.clone() : x, {}, owned};
    const at::Tensor given = stream.x;
    built.block.extend(stream, state, call);
    EXPECT_EQ(call.stream, nullptr);
    const bool adds_itself = device.is_cuda() && type == at::kBFloat16;
    EXPECT_EQ(stream.pending.defined(), !adds_itself);
    EXPECT_EQ(owned && adds_itself, given.is_same(stream.x)) << "an owned stream is added to in place";
    Stream expected = whole;
    EXPECT_LE((stream.resolve() - expected.resolve()).abs().max().item<double>(), allowed) << "owned " << owned;
    EXPECT_TRUE(x.equal(before)) << "a stream that is not owned was written";
  }
}

INSTANTIATE_TEST_SUITE_P(Types, BlockExtends,
                         ::testing::Values(std::pair{at::Device(at::kCPU), at::kFloat},
                                           std::pair{at::Device(at::kCPU), at::kBFloat16},
                                           std::pair{at::Device(at::kCUDA, 0), at::kFloat},
                                           std::pair{at::Device(at::kCUDA, 0), at::kBFloat16}));

}  // namespace rattan::nn::block_test_file
