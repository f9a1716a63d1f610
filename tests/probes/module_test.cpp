// Parameters, buffers and on_step: masks, types, weight decay, and what happens once an optimizer step.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include "rattan/train/fit_stepper.h"
#include "rattan/train/run_state.h"
#include "tests/probes/tiny_model.h"

namespace rattan::probes {
namespace module_test_file {

// A tiny model with an exponential moving average of its weight, taken after each optimizer step, and a scratch
// buffer that no checkpoint keeps.
class Averaged : public TinyModel {
 public:
  Averaged()
      : TinyModel(4),
        average(buffer("average", at::zeros({4}), nn::Reduce::mean, true)),
        scratch(buffer("scratch", at::zeros({1}), nn::Reduce::none, false)) {}
  void on_step(nn::Step& step) override {
    at::NoGradGuard no_grad;
    steps.push_back(step.index);
    average.value.mul_(0.5).add_(weight.master(), 0.5);
  }
  std::vector<int64_t> steps;
  nn::Buffer& average;
  nn::Buffer& scratch;
};

nn::Loss loss_of(TinyModel& model, uint64_t seed) {
  const at::Tensor x = random({1, 3, 4}, seed);
  const nn::Layout layout = nn::Layout::uniform(1, 3);
  nn::Call call{layout};
  call.mode = nn::Mode::train;
  return model.nll(model.forward({{}, {{"x", x}}}, call), random({1, 3, 4}, seed + 1), at::ones({1, 3}), call);
}

train::FitConfig config() {
  train::FitConfig c;
  c.steps = 3;
  c.lr = 0.1;
  c.warmup = 0;
  c.schedule = "constant";
  c.precision = "fp32";
  return c;
}

TEST(Module, MaskedEntriesReadZeroAndGetNoGradient) {
  TinyModel model(4);
  model.initialize(1);
  at::Tensor keep = at::ones({4}, at::kBool);
  keep[1].fill_(false);
  model.weight.mask(keep);
  EXPECT_EQ(model.weight(at::kFloat)[1].item<float>(), 0);
  EXPECT_NE(model.weight(at::kBFloat16)[0].item<float>(), 0);
  loss_of(model, 2).sum.backward();
  const at::Tensor grad = model.weight.master().grad();
  EXPECT_EQ(grad[1].item<float>(), 0);
  EXPECT_NE(grad[0].item<float>(), 0);
  EXPECT_NE(model.weight.master()[1].item<float>(), 0) << "the master keeps its value";
  at::NoGradGuard no_grad;
  EXPECT_EQ(model.weight(at::kFloat)[1].item<float>(), 0) << "also where casts are kept";
  model.weight.mask({});
  EXPECT_NE(model.weight(at::kFloat)[1].item<float>(), 0) << "taking the mask off shows the value again";
  EXPECT_THROW(model.weight.mask(at::ones({3}, at::kBool)), InputError);
}

TEST(Module, KeepFp32IsReadInFp32WhateverIsAskedFor) {
  TinyModel model(4);
  model.initialize(1);
  EXPECT_EQ(model.weight(at::kBFloat16).scalar_type(), at::kBFloat16);
  model.weight.keep_fp32 = true;
  EXPECT_EQ(model.weight(at::kBFloat16).scalar_type(), at::kFloat);
  EXPECT_EQ(model.weight(at::kDouble).scalar_type(), at::kDouble) << "float64 is for exact checks";
}

TEST(Module, OnlyDecayingParametersDecay) {
  for (bool decay : {true, false}) {
    TinyModel model(4);
    model.initialize(1);
    model.weight.decay = decay;
    const at::Tensor before = model.weight.master().detach().clone();
    train::FitConfig c = config();
    c.weight_decay = 0.5;
    train::FitState state;
    train::FitStepper stepper(model, c, state);
    // Targets equal to the outputs: the gradient is 0, so decay alone moves the weight.
    const nn::Layout layout = nn::Layout::uniform(1, 3);
    nn::Call call{layout};
    const at::Tensor h = model.forward({{}, {{"x", random({1, 3, 4}, 2)}}}, call);
    stepper.backward(model.nll(h, h.detach(), at::ones({1, 3}), call), {});
    stepper.step();
    // w (1 - lr decay), one fp32 rounding.
    EXPECT_LT(distance(model.weight.master(), before * (decay ? 1 - 0.1 * 0.5 : 1.0)), 1e-6);
  }
}

TEST(Module, AParameterThatIsNotTrainableStays) {
  Averaged model;
  model.weight.trainable = false;
  model.initialize(1);
  EXPECT_FALSE(loss_of(model, 2).sum.requires_grad());
}

TEST(Module, BuffersAreListedAndThePersistentOnesAreStored) {
  Averaged model;
  model.initialize(1);
  std::map<std::string, nn::Reduce> listed;
  model.each_buffer([&](const std::string& name, nn::Buffer& b) { listed[name] = b.reduce; });
  EXPECT_EQ(listed, (std::map<std::string, nn::Reduce>{{"average", nn::Reduce::mean}, {"scratch", nn::Reduce::none}}));
  const train::Tensors stored = train::model_tensors(model);
  EXPECT_TRUE(stored.contains("average"));
  EXPECT_FALSE(stored.contains("scratch"));
}

TEST(Module, OnStepRunsOnceAnOptimizerStep) {
  Averaged model;
  model.initialize(1);
  train::FitConfig c = config();
  c.accumulation = 2;
  train::FitState state;
  train::FitStepper stepper(model, c, state);
  at::Tensor expected = at::zeros({4});
  for (int i = 0; i < 6; ++i) {
    stepper.backward(loss_of(model, 10 + i), {});
    stepper.step();
    if (i % 2 == 1) expected = expected * 0.5 + model.weight.master().detach() * 0.5;
  }
  EXPECT_EQ(model.steps, (std::vector<int64_t>{1, 2, 3})) << "after every second micro-batch";
  EXPECT_LT(distance(model.average.value, expected), 1e-6);  // fp32 sums of terms near one
}

}  // namespace module_test_file
}  // namespace rattan::probes
