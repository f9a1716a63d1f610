// Traits: a mixer that selects is causal once its choices are frozen; a linear one gives its system.
#include <ATen/ops/exp.h>
#include <ATen/ops/log.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/zeros_like.h>

#include "tests/probes/probe.h"

namespace rattan::probes {
namespace traits_test_file {

// Lets through the token of a sequence with the largest norm: which one that is depends on the future.
class Select : public StatelessMixer {
 public:
  at::Tensor forward(const at::Tensor& x, nn::Call& call) override {
    auto make = [&] { return std::get<1>(at::topk(x.detach().pow(2).sum(-1), 1, 1)); };
    const at::Tensor chosen = call.choices ? call.choices->pick(fmt::format("{}.chosen", call.slot), make) : make();
    const at::Tensor index = chosen.unsqueeze(-1).expand({-1, -1, x.size(-1)});
    return at::zeros_like(x).scatter(1, index, x.gather(1, index)).cumsum(1);
  }
  nn::Traits traits() const override { return {.causal = nn::Causal::selection, .step = nn::StepForm::none}; }
};

TEST(Traits, SelectionIsCausalWithFrozenChoices) {
  Select mixer;
  at::Tensor x = random({2, 9, 4}, 1);
  x.select(1, 2).mul_(10);
  const nn::Layout layout = nn::Layout::uniform(2, 9);
  nn::Choices choices;
  nn::Call call{layout};
  call.choices = &choices;
  const at::Tensor before = mixer.forward(x, call);
  at::Tensor changed = x.clone();
  changed.select(1, 6).mul_(100);
  choices.replay(true);
  const at::Tensor frozen = mixer.forward(changed, call);
  EXPECT_TRUE(same_bits(frozen.slice(1, 0, 6), before.slice(1, 0, 6)));
  choices.replay(false);
  const at::Tensor free = mixer.forward(changed, call);
  EXPECT_FALSE(same_bits(free.slice(1, 0, 6), before.slice(1, 0, 6))) << "choosing anew looks ahead";
}

// h_t = a_t h_{t-1} + (1 - a_t) tanh(x_t), y_t = c h_t + d x_t, with a_t = sigmoid(x_t w).
class Linear : public StatelessMixer {
 public:
  Linear() : w_(param("w", {4}, nn::Init::normal(1))), c_(param("c", {4}, nn::Init::normal(1))) {}
  at::Tensor forward(const at::Tensor& x, nn::Call&) override {
    const at::Tensor a = gate(x), v = x.tanh();
    at::Tensor h = at::zeros_like(x.select(1, 0));
    std::vector<at::Tensor> out;
    for (int64_t t = 0; t < x.size(1); ++t) {
      h = a.select(1, t) * h + (1 - a.select(1, t)) * v.select(1, t);
      out.push_back(h * c_(x.scalar_type()) + x.select(1, t) * 0.5);
    }
    return at::stack(out, 1);
  }
  nn::Traits traits() const override { return {.linear = true}; }
  std::optional<nn::LinearSystem> linear_system(const at::Tensor& x, nn::Call&) override {
    const at::Tensor a = gate(x);
    return nn::LinearSystem{a.log(), 1 - a, c_(x.scalar_type()), x.tanh(), at::zeros_like(x) + 0.5};
  }

 private:
  at::Tensor gate(const at::Tensor& x) const { return at::sigmoid(x * w_(x.scalar_type())); }
  nn::Param &w_, &c_;
};

TEST(Traits, ALinearSystemReproducesTheOutput) {
  Linear mixer;
  mixer.initialize(2, at::kDouble);
  const at::Tensor x = random({2, 9, 4}, 1, at::kDouble);
  const nn::Layout layout = nn::Layout::uniform(2, 9);
  nn::Call call{layout};
  ASSERT_TRUE(mixer.traits().linear);
  const nn::LinearSystem s = mixer.linear_system(x, call).value();
  // The closed form: y_t = c sum_{i<=t} exp(sum_{i<j<=t} log_lambda_j) b_i v_i + d x_t.
  const at::Tensor total = s.log_lambda.cumsum(1);
  std::vector<at::Tensor> y;
  for (int64_t t = 0; t < 9; ++t) {
    const at::Tensor decay = (total.slice(1, t, t + 1) - total.slice(1, 0, t + 1)).exp();
    y.push_back(s.c * (decay * (s.b * s.v).slice(1, 0, t + 1)).sum(1) + (s.d * x).select(1, t));
  }
  EXPECT_LT(distance(at::stack(y, 1), mixer.forward(x, call)), 1e-13);  // float64, values of size one
  Select other;
  EXPECT_FALSE(other.linear_system(x, call).has_value());
}

}  // namespace traits_test_file
}  // namespace rattan::probes
