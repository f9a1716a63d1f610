// The call: knobs, choices, slot and step reach a mixer, also when activations are recomputed.
#include <ATen/ops/topk.h>
#include <ATen/ops/zeros_like.h>

#include "rattan/nn/choices.h"
#include "tests/probes/probe.h"

namespace rattan::probes {
namespace call_test_file {

// Scales its input by the knob "gain".
class Gain : public StatelessMixer {
 public:
  at::Tensor forward(const at::Tensor& x, nn::Call& call) override {
    return x * (call.knobs ? call.knobs->get("gain", 1) : 1.0);
  }
};

// Keeps the k largest of w * x a token. Which they are is a choice.
class TopK : public StatelessMixer {
 public:
  TopK() : weight_(param("weight", {8}, nn::Init::normal(1))) {}
  at::Tensor forward(const at::Tensor& x, nn::Call& call) override {
    const at::Tensor scores = x * weight_(x.scalar_type());
    auto make = [&] {
      ++made;
      return std::get<1>(at::topk(scores.detach(), 3, -1));
    };
    const at::Tensor index =
        call.choices ? call.choices->pick(fmt::format("{}.{}.top", call.slot, call.step), make) : make();
    return at::zeros_like(scores).scatter(-1, index, scores.gather(-1, index));
  }
  nn::Traits traits() const override { return {.causal = nn::Causal::selection}; }
  int made = 0;

 private:
  nn::Param& weight_;
};

// Notes where it was applied.
class Places : public StatelessMixer {
 public:
  at::Tensor forward(const at::Tensor& x, nn::Call& call) override {
    seen.emplace_back(call.slot, call.step);
    return x;
  }
  std::vector<std::pair<int, int>> seen;
};

class CallTest : public testing::Test {
 protected:
  at::Tensor x = random({2, 5, 8}, 1);
  nn::Layout layout = nn::Layout::uniform(2, 5);
  nn::Call call{layout};
};

TEST_F(CallTest, AKnobChangesOneCall) {
  Gain gain;
  const nn::Knobs knobs{{{"gain", 3}}};
  EXPECT_TRUE(same_bits(gain.forward(x, call), x));
  call.knobs = &knobs;
  EXPECT_TRUE(same_bits(gain.forward(x, call), x * 3));
}

TEST_F(CallTest, AKnobIsThereInRecomputation) {
  Blocks plain, recomputed;
  for (Blocks* b : {&plain, &recomputed}) b->add(std::make_unique<Gain>()), b->add(std::make_unique<TopK>());
  for (Blocks* b : {&plain, &recomputed}) b->stack.initialize(4);
  recomputed.stack.checkpoint = true;
  const nn::Knobs knobs{{{"gain", 0.5}}};
  call.knobs = &knobs;
  expect_same(gradients(recomputed, x, call), gradients(plain, x, call));
}

TEST_F(CallTest, ChoicesAreMadeOnceAndReplayed) {
  Blocks plain, recomputed;
  TopK* mixer = nullptr;
  for (Blocks* b : {&plain, &recomputed}) {
    auto fn = std::make_unique<TopK>();
    mixer = fn.get();
    b->add(std::move(fn));
    b->stack.initialize(4);
  }
  nn::Choices first, second;
  call.choices = &first;
  const auto expected = gradients(plain, x, call);
  recomputed.stack.checkpoint = true;
  call.choices = &second;
  expect_same(gradients(recomputed, x, call), expected);
  EXPECT_EQ(mixer->made, 1) << "recomputation must not choose again";
}

TEST_F(CallTest, FrozenChoicesHoldForOtherInputs) {
  Blocks blocks;
  auto fn = std::make_unique<TopK>();
  TopK* mixer = fn.get();
  blocks.add(std::move(fn));
  blocks.stack.initialize(4);
  nn::Choices choices;
  call.choices = &choices;
  for (bool recompute : {false, true}) {
    SCOPED_TRACE(recompute ? "with recomputation" : "without");
    blocks.stack.checkpoint = recompute;
    choices.clear();
    choices.replay(false);
    gradients(blocks, x, call);
    const int made = mixer->made;
    choices.replay(true);
    const at::Tensor flipped = gradients(blocks, -x, call).at("y");
    EXPECT_EQ(mixer->made, made);
    // The choice of x's largest entries stands, so -x keeps the entries that x kept.
    EXPECT_TRUE(same_bits(flipped, -gradients(blocks, x, call).at("y")));
  }
  nn::Choices empty;
  empty.replay(true);
  call.choices = &empty;
  EXPECT_THROW(blocks.forward(x, call), std::exception) << "nothing was recorded";
}

TEST_F(CallTest, DropoutIsReplayedBitForBit) {
  Blocks plain, recomputed;
  for (Blocks* b : {&plain, &recomputed}) {
    for (int i = 0; i < 2; ++i) b->add(std::make_unique<TopK>(), 0.5);
    b->stack.initialize(4);
  }
  recomputed.stack.checkpoint = true;
  Rng a(7), b(7);
  call.rng = &a;
  const auto expected = gradients(plain, x, call);
  call.rng = &b;
  expect_same(gradients(recomputed, x, call), expected);
  EXPECT_EQ(a.position(), b.position()) << "recomputation must not draw";
  Rng other(8);
  call.rng = &other;
  EXPECT_FALSE(same_bits(gradients(plain, x, call).at("y"), expected.at("y"))) << "another seed drops others";
}

TEST_F(CallTest, AStackCountsItsSlotsAndTheStepsOfEachBlock) {
  Blocks blocks;
  std::vector<Places*> places;
  for (int i = 0; i < 2; ++i) {
    auto fn = std::make_unique<Places>();
    places.push_back(fn.get());
    blocks.add(std::move(fn));
  }
  blocks.stack.set_plan({0, 1, 0, 0});
  using Seen = std::vector<std::pair<int, int>>;
  const Seen first = {{0, 0}, {2, 1}, {3, 2}}, second = {{1, 0}};
  blocks.forward(x, call);
  EXPECT_EQ(places[0]->seen, first);
  EXPECT_EQ(places[1]->seen, second);
  places[0]->seen.clear();
  nn::State state;
  blocks.extend(x, state, call);
  EXPECT_EQ(places[0]->seen, first);
  places[0]->seen.clear();
  blocks.forward(x, call, 3);
  EXPECT_EQ(places[0]->seen, (Seen{{3, 2}})) << "a range of slots counts as the whole does";
  EXPECT_THROW(blocks.stack.set_plan({0, 2}), std::exception);
}

}  // namespace call_test_file
}  // namespace rattan::probes
