// Heads: logits, loss and scores agree with each other, for the head of a language model and for two heads of one
// model, one of which scores candidates; the fused cross-entropy against its definition in float64.
#include <ATen/ops/arange.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/tensor.h>

#include "rattan/base/error.h"
#include "rattan/models/language_model.h"
#include "rattan/ops/ops.h"
#include "tests/probes/probe.h"

namespace rattan::probes {
namespace head_test_file {

// Tells which of the rows of a table a hidden state is nearest to, by dot product. With `scores_all` false the whole
// table is never multiplied by: scores are relative to the candidates alone, as a ranking needs them.
class Items : public models::Head {
 public:
  Items(const nn::Param& table, bool scores_all) : table_(table), scores_all_(scores_all) {}
  at::Tensor logits(const at::Tensor& h, nn::Call&) override { return at::linear(h, table_(h.scalar_type())); }
  nn::Loss nll(const at::Tensor& h, const at::Tensor& y, const at::Tensor& weight, nn::Call& call) override {
    const at::Tensor counted = (y >= 0).to(h.scalar_type()) * (weight.defined() ? weight : at::scalar_tensor(1.0));
    const at::Tensor p = at::log_softmax(logits(h, call), -1).gather(-1, y.clamp_min(0).unsqueeze(-1)).squeeze(-1);
    return {-(p * counted).sum(), counted.sum()};
  }
  at::Tensor score(const at::Tensor& h, const at::Tensor& candidates, nn::Call& call) override {
    if (scores_all_) return at::log_softmax(logits(h, call), -1).gather(-1, candidates);
    const at::Tensor rows = table_(h.scalar_type()).index_select(0, candidates.flatten());
    return at::log_softmax((rows.view({h.size(0), h.size(1), -1, h.size(2)}) * h.unsqueeze(2)).sum(-1), -1);
  }

 private:
  const nn::Param& table_;
  bool scores_all_;
};

// A model with the heads "next" and "items" over one hidden state.
class TwoHeads : public models::Model {
 public:
  TwoHeads()
      : next_table_(param("next", {11, 8}, nn::Init::normal(1))),
        item_table_(param("items", {7, 8}, nn::Init::normal(1))) {}
  at::Tensor forward(const models::Input& input, nn::Call&) override { return input.fields.at("x"); }
  at::Tensor extend(const models::Input& input, nn::State&, nn::Call& call) override { return forward(input, call); }
  models::Head& head(const std::string& name) override {
    if (name == "next") return next_;
    require(name == "items", "no head '{}'", name);
    return items_;
  }
  nn::StateSpec state_spec() const override { return {}; }
  double flops_per_token(int64_t) const override { return 0; }

 private:
  nn::Param &next_table_, &item_table_;
  Items next_{next_table_, true}, items_{item_table_, false};
};

// logits -> nll, weights, ignored targets and scores.
void expect_agreement(models::Head& head, const at::Tensor& h, int64_t classes, nn::Call& call, double error) {
  const at::Tensor p = at::log_softmax(head.logits(h, call).to(at::kDouble), -1);
  const at::Tensor y = at::tensor({1, -100, 0, -1, 5, 3}, at::kLong).view({2, 3});
  const at::Tensor weight = at::tensor({1.0, 2.0, 0.5, 1.0, 0.0, 3.0}, at::kFloat).view({2, 3});
  const at::Tensor each = p.gather(-1, y.clamp_min(0).unsqueeze(-1)).squeeze(-1) * (y >= 0);
  const nn::Loss plain = head.nll(h, y, {}, call), weighted = head.nll(h, y, weight, call);
  EXPECT_EQ(plain.count.item<double>(), 4) << "targets below 0 are not counted";
  EXPECT_NEAR(plain.sum.item<double>(), -each.sum().item<double>(), error);
  EXPECT_EQ(weighted.count.item<double>(), 1 + 0.5 + 0 + 3);
  EXPECT_NEAR(weighted.sum.item<double>(), -(each * weight).sum().item<double>(), error);
  const at::Tensor all = at::arange(classes).view({1, 1, classes}).expand({2, 3, classes});
  EXPECT_LT(distance(head.score(h, all, call), p), error) << "all classes as candidates";
}

TEST(Head, TwoHeadsOfAModelAgreeWithTheirLogits) {
  TwoHeads model;
  model.initialize(1);
  const nn::Layout layout = nn::Layout::uniform(2, 3);
  nn::Call call{layout};
  const at::Tensor h = model.forward({{}, {{"x", random({2, 3, 8}, 2)}}}, call);
  expect_agreement(model.head("next"), h, 11, call, 1e-4);  // fp32, values near ten
  expect_agreement(model.head("items"), h, 7, call, 1e-4);
  const at::Tensor two = at::tensor({4, 6}, at::kLong).view({1, 1, 2}).expand({2, 3, 2}).contiguous();
  const at::Tensor score = model.head("items").score(h, two, call);
  EXPECT_LT(distance(score.exp().sum(-1), score.exp().sum(-1) * 0 + 1), 1e-6) << "relative to the candidates";
  EXPECT_THROW(model.head("lm"), InputError);
}

TEST(Head, TheLanguageModelsHeadAgreesInEveryType) {
  for (at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    SCOPED_TRACE(static_cast<int>(dtype));
    models::LanguageModelConfig config;
    config.vocab_size = 13;
    config.d_model = 8;
    config.n_layers = 0;
    config.init_std = 1;
    config.mixers["rat"];
    models::LanguageModel model(config);
    model.initialize(1, dtype == at::kDouble ? dtype : at::kFloat);
    model.compute = dtype;
    const nn::Layout layout = nn::Layout::uniform(2, 3);
    nn::Call call{layout};
    const at::Tensor h = random({2, 3, 8}, 2, dtype);
    // Sums of four terms near ten: fp32 rounding, and for bf16 logits rounded to 2^-8 of them.
    const double error = dtype == at::kDouble ? 1e-12 : dtype == at::kFloat ? 1e-4 : 0.2;
    expect_agreement(model.head(), h, 13, call, error);
  }
}

TEST(Head, FusedCrossEntropyEqualsItsDefinitionInFloat64) {
  constexpr int64_t rows = 37, dim = 16, classes = 301;
  std::vector<int64_t> targets(rows);
  Rng rng(5);
  for (int64_t& t : targets) t = rng.below(6) == 0 ? -1 : static_cast<int64_t>(rng.below(classes));
  const at::Tensor y = at::tensor(targets, at::kLong), weight = random({rows}, 6).abs();
  for (bool weighted : {false, true}) {
    SCOPED_TRACE(weighted ? "weighted" : "plain");
    at::Tensor h = random({rows, dim}, 7).set_requires_grad(true),
               w = random({classes, dim}, 8).set_requires_grad(true);
    at::Tensor h64 = h.detach().to(at::kDouble).set_requires_grad(true);
    at::Tensor w64 = w.detach().to(at::kDouble).set_requires_grad(true);
    const at::Tensor loss = ops::linear_cross_entropy(h, w, y, weighted ? weight : at::Tensor());
    at::Tensor each = -at::log_softmax(at::linear(h64, w64), -1).gather(1, y.clamp_min(0).unsqueeze(1)).squeeze(1);
    each = each * (y >= 0);
    const at::Tensor expected = (weighted ? each * weight : each).sum();
    (loss * 0.7).backward();
    (expected * 0.7).backward();
    // fp32 over 301 classes of 16 products each: some 1e-6 of a sum near 200, and of gradients near 10.
    EXPECT_NEAR(loss.item<double>(), expected.item<double>(), 1e-5 * expected.item<double>());
    EXPECT_LT(distance(h.grad(), h64.grad()), 5e-5);
    EXPECT_LT(distance(w.grad(), w64.grad()), 5e-5);
  }
}

}  // namespace head_test_file
}  // namespace rattan::probes
