// The sink: auxiliary losses, metrics and taps, each counted once whether or not activations are recomputed.
#include <ATen/ops/scalar_tensor.h>

#include "tests/probes/probe.h"

namespace rattan::probes {
namespace sink_test_file {

// A commitment-like loss |w x - x|^2, its size as a metric, w x as a tap, and a buffer that counts the tokens seen.
class Noisy : public StatelessMixer {
 public:
  Noisy()
      : weight_(param("weight", {4}, nn::Init::normal(1))),
        tokens_(buffer("tokens", at::scalar_tensor(0.0), nn::Reduce::sum, true)) {}
  at::Tensor forward(const at::Tensor& x, nn::Call& call) override {
    at::Tensor y = x * weight_(x.scalar_type());
    if (call.mode == nn::Mode::train) tokens_.value.add_(static_cast<double>(call.layout.size()));
    if (call.sink) {
      call.sink->loss("commit", {(y - x).pow(2).sum(), at::scalar_tensor(static_cast<double>(call.layout.size()))});
      call.sink->metric("size", y.detach().abs().max());
      if (call.sink->wants("y")) ++tapped, call.sink->tap("y", y.detach());
    }
    return y;
  }
  double tokens() const { return tokens_.value.item<double>(); }
  int tapped = 0;

 private:
  nn::Param& weight_;
  nn::Buffer& tokens_;
};

struct Outcome {
  nn::Sink sink;
  std::vector<at::Tensor> grads;
  double tokens = 0;
  int tapped = 0;
};

// Backward of the main output and of a third of the auxiliary loss, from two blocks.
Outcome run(bool recompute, bool main_loss, std::set<std::string> wanted = {}) {
  Blocks blocks;
  std::vector<Noisy*> mixers;
  for (int i = 0; i < 2; ++i) {
    auto fn = std::make_unique<Noisy>();
    mixers.push_back(fn.get());
    blocks.add(std::move(fn));
  }
  blocks.stack.initialize(3);
  blocks.stack.checkpoint = recompute;
  // An input that wants no gradient, as real-valued data: the parameters must get theirs all the same.
  const at::Tensor x = random({2, 3, 4}, 1);
  const nn::Layout layout = nn::Layout::uniform(2, 3);
  Outcome out;
  out.sink.wanted = std::move(wanted);
  nn::Call call{layout};
  call.mode = nn::Mode::train;
  call.sink = &out.sink;
  const at::Tensor y = blocks.forward(x, call);
  at::Tensor loss = out.sink.losses.at("commit").sum / 3;
  if (main_loss) loss = loss + y.pow(2).sum();
  loss.backward();
  for (const Noisy* m : mixers) out.tokens += m->tokens(), out.tapped += m->tapped;
  blocks.stack.each_param([&](const std::string&, nn::Param& p) { out.grads.push_back(p.master().grad()); });
  return out;
}

TEST(Sink, LossesAndTheirGradientsAreTheSameWithRecomputation) {
  for (bool main_loss : {true, false}) {
    SCOPED_TRACE(main_loss ? "with a main loss" : "auxiliary loss alone");
    const Outcome plain = run(false, main_loss), recomputed = run(true, main_loss);
    // Two blocks of 6 tokens each: the losses of both are added, once.
    EXPECT_EQ(plain.sink.losses.at("commit").count.item<double>(), 12);
    EXPECT_TRUE(same_bits(plain.sink.losses.at("commit").count, recomputed.sink.losses.at("commit").count));
    EXPECT_TRUE(same_bits(plain.sink.losses.at("commit").sum, recomputed.sink.losses.at("commit").sum));
    for (size_t i = 0; i < plain.grads.size(); ++i) {
      ASSERT_TRUE(plain.grads[i].defined() && recomputed.grads[i].defined());
      EXPECT_TRUE(same_bits(plain.grads[i], recomputed.grads[i]));
    }
  }
}

TEST(Sink, BufferSumsAreCountedOnce) {
  EXPECT_EQ(run(false, true).tokens, 12);
  EXPECT_EQ(run(true, true).tokens, 12) << "recomputation counts nothing";
}

TEST(Sink, MetricsAndTapsComeThroughRecomputation) {
  for (bool recompute : {false, true}) {
    SCOPED_TRACE(recompute ? "with recomputation" : "without");
    const Outcome silent = run(recompute, true), asked = run(recompute, true, {"y"});
    EXPECT_GT(silent.sink.metrics.at("size").item<double>(), 0);
    EXPECT_TRUE(silent.sink.taps.empty());
    EXPECT_EQ(silent.tapped, 0);
    EXPECT_EQ(asked.tapped, 2) << "once a block";
    EXPECT_EQ(asked.sink.taps.at("y").sizes(), at::IntArrayRef({2, 3, 4}));
  }
}

TEST(Sink, ATapNobodyAskedForIsDropped) {
  nn::Sink sink;
  sink.tap("y", at::scalar_tensor(1.0));
  EXPECT_TRUE(sink.taps.empty());
}

}  // namespace sink_test_file
}  // namespace rattan::probes
