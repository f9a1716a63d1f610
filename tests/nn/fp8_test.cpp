// fp8 is a property of the projections of a stack: switched off it leaves no trace, embedding and head never have it,
// gradients of masters stay fp32, and recomputed activations are the same bits.
#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <map>

#include "rattan/base/config.h"
#include "rattan/base/error.h"
#include "rattan/models/language_model.h"
#include "rattan/nn/linear.h"
#include "rattan/ops/ops.h"

namespace rattan::nn::fp8_test_file {

constexpr int64_t rows = 2, tokens = 24, vocabulary = 48, d_model = 32;

models::LanguageModelConfig config() {
  models::LanguageModelConfig out;
  ConfigTree::from_text(
      "[model]\nvocab_size = 48\nd_model = 32\nn_layers = 3\npattern = ['rat', 'rnn', 'local']\n"
      "tie_embeddings = false\nffn = { type = 'swiglu', hidden = 48 }\n"
      "[mixers.rat]\ntype = 'rat'\nn_heads = 2\nn_groups = 1\nchunk = 4\n"
      "[mixers.rnn]\ntype = 'rnn'\n[mixers.local]\ntype = 'swa'\nn_heads = 2\nwindow = 8\n",
      "test")
      .read(out);
  return out;
}

struct Result {
  double loss = 0;
  std::map<std::string, at::Tensor> grads;
};

struct Where {
  at::Device device;
  ops::Fp8 fp8;
};

class Fp8Model : public ::testing::TestWithParam<Where> {
 protected:
  Fp8Model() : model(config()) {}
  void SetUp() override {
    if (device.is_cuda() && !at::hasCUDA()) GTEST_SKIP() << "no GPU";
    try {
      ops::require_fp8(fp8, device);
    } catch (const InputError& error) {
      GTEST_SKIP() << error.what();
    }
    at::manual_seed(5);
    model.compute = at::kBFloat16;
    model.initialize(7, at::kFloat, device);
    ids = at::randint(vocabulary, {rows, tokens + 1}, at::kLong).to(device);
  }
  void use(ops::Fp8 mode) { set_fp8(model.stack(), mode, device); }
  Result run() {
    const Layout layout = Layout::uniform(rows, tokens, device);
    Call call{layout};
    call.mode = Mode::train;
    const at::Tensor h = model.forward({ids.narrow(1, 0, tokens), {}}, call);
    const Loss loss = model.head().nll(h, ids.narrow(1, 1, tokens), {}, call);
    torch::autograd::backward({loss.sum}, {});
    Result out{loss.sum.item<double>() / loss.count.item<double>(), {}};
    model.each_param([&](const std::string& name, Param& param) {
      EXPECT_EQ(param.master().grad().scalar_type(), at::kFloat) << name;
      out.grads[name] = param.master().grad();
      param.master().mutable_grad() = at::Tensor();
    });
    return out;
  }
  static void expect_same(const Result& a, const Result& b) {
    EXPECT_EQ(a.loss, b.loss);
    for (const auto& [name, grad] : a.grads) EXPECT_TRUE(at::equal(grad, b.grads.at(name))) << name;
  }
  const at::Device device = GetParam().device;
  const ops::Fp8 fp8 = GetParam().fp8;
  models::LanguageModel model;
  at::Tensor ids;
};

TEST_P(Fp8Model, OffLeavesNoTrace) {
  const Result before = run();
  use(fp8);
  const Result with = run();
  EXPECT_NE(with.loss, before.loss);
  use(ops::Fp8::off);
  expect_same(run(), before);
}

// A rounding to e4m3 is off by 2.6 % rms (2^-4 at most); a product of two random such vectors by sqrt(2) times that,
// 4 % of its size, and so is a gradient through one product. Through six branches added to a stream more gathers: a
// direction is kept when its error is well below its length. The loss is a mean over 48 tokens, whose logits of size
// below 1 change by 4 % each at random.
TEST_P(Fp8Model, LossAndGradientsStayNearThoseInBf16) {
  const Result plain = run();
  use(fp8);
  const Result rounded = run();
  EXPECT_NEAR(rounded.loss / plain.loss, 1, 0.001);
  for (const auto& [name, grad] : plain.grads) {
    const double error = (rounded.grads.at(name) - grad).norm().item<double>() / grad.norm().item<double>();
    EXPECT_LE(error, 0.15) << name;
  }
}

TEST_P(Fp8Model, RecomputedActivationsAreTheSameBits) {
  use(fp8);
  const Result kept = run();
  model.stack().checkpoint = true;
  expect_same(run(), kept);
}

TEST_P(Fp8Model, EmbeddingAndHeadNeverHaveIt) {
  const Layout layout = Layout::uniform(rows, tokens, device);
  Call call{layout};
  const at::Tensor h = at::randn({rows, tokens, d_model}).to(device, at::kBFloat16);
  at::NoGradGuard no_grad;
  const at::Tensor before = model.head().logits(h, call);
  set_fp8(model, fp8, device);  // the whole model, not its stack alone
  EXPECT_TRUE(at::equal(model.head().logits(h, call), before));
}

TEST_P(Fp8Model, ExtendGivesWhatForwardDoes) {
  at::NoGradGuard no_grad;
  use(fp8);
  const at::Tensor input = ids.narrow(1, 0, tokens);
  const Layout layout = Layout::uniform(rows, tokens, device), stateful = Layout::uniform(rows, tokens, device, true);
  Call forward{layout}, extend{stateful};
  const at::Tensor whole = model.forward({input, {}}, forward).to(at::kFloat);
  State state = make_state(model.state_spec(), rows, tokens, model.compute, device);
  const at::Tensor prefilled = model.extend({input, {}}, state, extend).to(at::kFloat);
  // The same rows are rounded the same way; what differs is what differs in bf16, roundings of it now and then, which
  // may carry an element to the next value of e4m3.
  EXPECT_LE((whole - prefilled).norm().item<double>() / whole.norm().item<double>(), 0.02);
}

// In inference a weight is rounded once and kept until its master changes.
TEST_P(Fp8Model, RoundedWeightsFollowTheirMasters) {
  at::NoGradGuard no_grad;
  Linear linear(32, 48, 0.1);
  linear.initialize(3, at::kFloat, device);
  linear.set_fp8(fp8);
  const at::Tensor x = at::randn({5, 32}).to(device, at::kBFloat16);
  const at::Tensor first = linear(x);
  EXPECT_TRUE(at::equal(linear(x), first));
  linear.each_param([](const std::string&, Param& p) {
    EXPECT_TRUE(p.fp8_rows(p(at::kBFloat16)).values.is_same(p.fp8_rows(p(at::kBFloat16)).values));
    p.master().mul_(2);
    p.changed();
  });
  EXPECT_TRUE(at::equal(linear(x), first * 2)) << "a power of two scales the scales alone";
  at::AutoGradMode recorded(true);
  linear.each_param([](const std::string&, Param& p) { EXPECT_FALSE(p.fp8_rows(p(at::kBFloat16)).values.defined()); });
}

TEST_P(Fp8Model, RefusesOddSidesAndProcessors) {
  models::LanguageModelConfig narrow = config();
  narrow.ffn.hidden = 56;
  models::LanguageModel odd(narrow);
  EXPECT_THAT(fp8_obstacle(odd.stack()), ::testing::HasSubstr("[56, 32]"));
  EXPECT_EQ(fp8_obstacle(model.stack()), "");
  EXPECT_THROW(set_fp8(odd.stack(), fp8, device), InputError);
  EXPECT_NO_THROW(set_fp8(odd.stack(), ops::Fp8::off, device));
  EXPECT_THROW(set_fp8(model.stack(), ops::Fp8::on, at::kCPU), InputError);
}

INSTANTIATE_TEST_SUITE_P(Devices, Fp8Model,
                         ::testing::Values(Where{at::Device(at::kCPU), ops::Fp8::emulated},
                                           Where{at::Device(at::kCUDA, 0), ops::Fp8::on}),
                         [](const auto& info) { return info.param.device.is_cuda() ? "cuda" : "cpu_emulated"; });

}  // namespace rattan::nn::fp8_test_file
