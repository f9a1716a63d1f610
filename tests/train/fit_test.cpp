#include "rattan/train/fit.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include <cmath>

#include "bigram.h"
#include "rattan/base/parallel.h"
#include "rattan/train/optimizer.h"

namespace rattan::train {
namespace fit_test_file {

at::Tensor weights(bigram::Model& model) {
  return at::cat({model.table().master().detach().flatten(), model.bias().master().detach()}).clone();
}

// The definition, in float64, one parameter at a time.
struct ReferenceAdamW {
  FitConfig c;
  int64_t t = 0;
  std::vector<at::Tensor> w, m, v;
  void step(std::vector<at::Tensor> g, double lr) {
    ++t;
    double squares = 0;
    for (at::Tensor& x : g) squares += x.square().sum().item<double>();
    double norm = std::sqrt(squares);
    for (std::size_t i = 0; i < w.size(); ++i) {
      if (c.clip > 0 && norm > c.clip) g[i] = g[i] * (c.clip / norm);
      bool decays = c.decay_on == "all" || w[i].dim() >= 2;
      m[i] = c.beta1 * m[i] + (1 - c.beta1) * g[i];
      v[i] = c.beta2 * v[i] + (1 - c.beta2) * g[i].square();
      at::Tensor direction = m[i] / (1 - std::pow(c.beta1, t)) / ((v[i] / (1 - std::pow(c.beta2, t))).sqrt() + c.eps);
      w[i] = w[i] - lr * (direction + (decays ? c.weight_decay : 0.0) * w[i]);
    }
  }
};

// Runs `fit` and the definition side by side; the reference takes means over all tokens of a step.
void compare_with_definition(FitConfig config, bool aux) {
  bigram::Model model(3), twin(3);
  model.aux = twin.aux = aux;
  config.aux["size"] = 0.3;
  bigram::Task task;
  FitState state;
  std::vector<StepReport> reports;
  FitHooks hooks;
  hooks.on_step = [&](const StepReport& r) { reports.push_back(r); };
  fit(model, task, config, state, hooks);

  ReferenceAdamW reference{config, 0, {}, {}, {}};
  for (nn::Param* p : {&twin.table(), &twin.bias()}) {
    reference.w.push_back(p->master().detach().to(at::kDouble));
    reference.m.push_back(at::zeros_like(reference.w.back()));
    reference.v.push_back(at::zeros_like(reference.w.back()));
  }
  bigram::Source source;
  for (int64_t s = 1; s <= config.steps; ++s) {
    double sum = 0, count = 0, aux_count = 0;
    std::vector<at::Tensor> aux_grads(2);
    twin.table().master().mutable_grad().reset();
    twin.bias().master().mutable_grad().reset();
    for (int64_t a = 0; a < config.accumulation; ++a) {
      auto batch = source.next();
      nn::Sink sink;
      nn::Loss loss = bigram::Task::loss_of(twin, dynamic_cast<bigram::Text&>(*batch), &sink);
      loss.sum.backward();
      sum += loss.sum.item<double>();
      count += loss.count.item<double>();
      if (aux) aux_count += sink.losses["size"].count.item<double>();
    }
    std::vector<at::Tensor> g = {twin.table().master().grad().to(at::kDouble) / count,
                                 twin.bias().master().grad().to(at::kDouble) / count};
    // The auxiliary loss is sum(table^2) a micro-batch.
    if (aux) g[0] = g[0] + 0.3 * 2 * static_cast<double>(config.accumulation) / aux_count * reference.w[0];
    reference.step(g, learning_rate(config, s, config.steps));
    {
      at::NoGradGuard no_grad;
      twin.table().master().copy_(reference.w[0]);
      twin.bias().master().copy_(reference.w[1]);
    }
    EXPECT_NEAR(reports[static_cast<std::size_t>(s - 1)].loss, sum / count, 1e-5);
  }
  // fp32 against float64 over 12 steps of at most 0.05: rounding of the weights, 6e-8 of their size a step,
  // and of Adam's quotient, a few 1e-7 of each step.
  double difference = (weights(model) - weights(twin)).abs().max().item<double>();
  EXPECT_LT(difference, 5e-6);
}

TEST(Fit, FollowsTheDefinitionOfAdamW) { compare_with_definition(bigram::config(12), false); }

TEST(Fit, ClipsByTheGlobalNorm) {
  FitConfig config = bigram::config(12);
  config.clip = 0.05;
  compare_with_definition(config, false);
}

TEST(Fit, DecaysMatricesOnlyIfAsked) {
  FitConfig config = bigram::config(12);
  config.decay_on = "matrices";
  config.weight_decay = 1;
  compare_with_definition(config, false);
}

TEST(Fit, AccumulationDividesByTheCountOverAllMicroBatches) {
  FitConfig config = bigram::config(12);
  config.accumulation = 3;
  compare_with_definition(config, false);
}

TEST(Fit, AuxiliaryLossesHaveCountsOfTheirOwn) {
  FitConfig config = bigram::config(12);
  config.accumulation = 2;
  compare_with_definition(config, true);
}

TEST(Fit, LearnsAndReports) {
  bigram::Model model(3);
  bigram::Task task;
  FitState state;
  FitConfig config = bigram::config(60);
  config.eval_every = 20;
  double first = 0, last = 0;
  int64_t evaluations = 0;
  FitHooks hooks;
  hooks.on_step = [&](const StepReport& r) {
    if (r.step == 1) first = r.loss;
    last = r.loss;
    EXPECT_GT(r.units, 0);
    EXPECT_GT(r.flops, 0);
    EXPECT_EQ(r.lr, learning_rate(config, r.step, 60));
  };
  hooks.on_evaluation = [&](int64_t step, const Report& report) {
    EXPECT_EQ(step, 20 * ++evaluations);
    EXPECT_TRUE(report.contains("loss"));
  };
  FitResult result = fit(model, task, config, state, hooks);
  EXPECT_EQ(result.steps, 60);
  EXPECT_EQ(evaluations, 3);
  EXPECT_LT(last, first);
}

TEST(Fit, StoppedAndContinuedEqualsUninterrupted) {
  for (int64_t accumulation : {1, 2}) {
    FitConfig config = bigram::config(20);
    config.accumulation = accumulation;
    bigram::Model whole(3), parts(3);
    bigram::Task whole_task, parts_task;
    FitState whole_state, parts_state;
    fit(whole, whole_task, config, whole_state, {});
    FitHooks stop;
    stop.after_step = [](const FitState& s) { return s.step == 7; };
    EXPECT_TRUE(fit(parts, parts_task, config, parts_state, stop).stopped);
    // As from a file: fresh tensors, a fresh task at the stored position.
    FitState loaded{parts_state.step, parts_state.rng_position, {}};
    for (auto& [name, value] : parts_state.optimizer) loaded.optimizer[name] = value.clone();
    bigram::Task fresh;
    fresh.source.restore(parts_task.source.position());
    fit(parts, fresh, config, loaded, {});
    EXPECT_TRUE(at::equal(weights(whole), weights(parts)));
    EXPECT_EQ(whole_state.rng_position, loaded.rng_position);
    for (auto& [name, value] : whole_state.optimizer) EXPECT_TRUE(at::equal(value, loaded.optimizer[name])) << name;
  }
}

TEST(Fit, ATaskMayStepTwiceABatch) {
  bigram::Model model(3);
  bigram::Task task;
  task.steps_per_batch = 2;
  FitState state;
  int64_t boundaries = 0;
  FitHooks hooks;
  hooks.after_step = [&](const FitState& s) {
    EXPECT_EQ(s.step, 2 * ++boundaries);
    return false;
  };
  fit(model, task, bigram::config(10), state, hooks);
  EXPECT_EQ(boundaries, 5);
  EXPECT_EQ(task.source.position(), "5");
}

TEST(Fit, ALossThatIsNotFiniteStopsBeforeTheUpdate) {
  bigram::Model model(3), before(3);
  bigram::Task task, short_task;
  FitState state, before_state;
  FitConfig config = bigram::config(20);
  task.poison = 5;
  FitHooks stop;
  stop.after_step = [](const FitState& s) { return s.step == 4; };
  fit(before, short_task, config, before_state, stop);
  try {
    fit(model, task, config, state, {});
    FAIL() << "an infinite loss went through";
  } catch (const NotFinite& error) {
    EXPECT_EQ(error.step, 5);
    EXPECT_NE(std::string(error.what()).find("train.lr"), std::string::npos);
  }
  EXPECT_EQ(state.step, 4);
  EXPECT_TRUE(at::equal(weights(model), weights(before)));
}

TEST(Fit, DataThatEndsEarlyIsAnError) {
  bigram::Model model(3);
  bigram::Task task;
  task.source.limit = 4;
  FitState state;
  EXPECT_THROW(fit(model, task, bigram::config(10), state, {}), Error);
  EXPECT_EQ(state.step, 4);
}

TEST(Fit, RefusesAStateOfAnotherModelOrRun) {
  bigram::Model model(3);
  bigram::Task task;
  FitState state;
  state.step = 3;
  EXPECT_THROW(fit(model, task, bigram::config(10), state, {}), InputError) << "no moments";
  FitState stranger;
  stranger.optimizer["exp_avg.nobody"] = at::zeros_like(model.bias().master());
  EXPECT_THROW(fit(model, task, bigram::config(10), stranger, {}), InputError);
  FitState late;
  late.step = 11;
  EXPECT_THROW(fit(model, task, bigram::config(10), late, {}), InputError);
}

TEST(GlobalNorm, EqualsTheDefinitionForAnyNumberOfThreads) {
  Rng rng(5);
  std::vector<at::Tensor> tensors;
  double squares = 0;
  for (int64_t n : {1, 7, 40000, 123457}) {
    at::Tensor t = at::zeros({n});
    for (int64_t i = 0; i < n; ++i) {
      float x = static_cast<float>(rng.normal());
      t.data_ptr<float>()[i] = x;
      squares += static_cast<double>(x) * x;
    }
    tensors.push_back(t);
  }
  set_threads(1);
  double one = global_norm(tensors).item<double>();
  set_threads(3);
  EXPECT_EQ(one, global_norm(tensors).item<double>());
  set_threads(0);
  EXPECT_NEAR(one, std::sqrt(squares), 1e-9 * one);  // float64 sums in another order
}

}  // namespace fit_test_file
}  // namespace rattan::train
