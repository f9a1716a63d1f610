// Tasks: two optimizer steps for one batch, batches of changing shape, state carried from batch to batch through a
// checkpoint, and losses divided by the count over all micro-batches.
#include <ATen/ops/ones.h>
#include <unistd.h>

#include <filesystem>

#include "rattan/io/model_folder.h"
#include "rattan/io/safetensors_tensors.h"
#include "rattan/train/fit_stepper.h"
#include "rattan/train/run_state.h"
#include "tests/probes/tiny_model.h"

namespace rattan::probes {
namespace task_test_file {

struct Points : train::Batch {
  at::Tensor x, y;
};

// Rows that go on where the batch before left them, in pieces of 1 to 4 tokens (twice as many rows for odd ones if
// `rows_change`).
class Pieces : public train::Stream {
 public:
  std::unique_ptr<train::Batch> next() override {
    auto batch = std::make_unique<Points>();
    batch->rows = rows_change && made_ % 2 ? 4 : 2;
    batch->tokens = 1 + made_ % 4;
    batch->x = random({batch->rows, batch->tokens, 4}, 100 + made_);
    batch->y = random({batch->rows, batch->tokens, 4}, 200 + made_);
    ++made_;
    return batch;
  }
  std::string position() const override { return std::to_string(made_); }
  void restore(const std::string& position) override { made_ = std::stoull(position); }
  bool rows_change = false;

 private:
  uint64_t made_ = 0;
};

// Truncated backpropagation: the state of a batch starts the next, detached. A batch makes `updates` steps.
class Carrying : public train::Task {
 public:
  std::string name() const override { return "carrying"; }
  Pieces& stream(train::Split) override { return pieces; }
  void step(models::Model& model, train::Batch& batch, train::Stepper& stepper) override {
    auto& points = dynamic_cast<Points&>(batch);
    shapes.emplace_back(points.rows, points.tokens);
    const nn::Layout layout = nn::Layout::uniform(points.rows, points.tokens);
    nn::State start = state;
    for (int i = 0; i < updates; ++i) {
      nn::Call call{layout};
      call.mode = nn::Mode::train;
      state = start.detach();
      if (!pieces.rows_change) call.carry = &state;
      const at::Tensor h = model.forward({{}, {{"x", points.x}}}, call);
      stepper.backward(model.head().nll(h, points.y, at::ones({points.rows, points.tokens}), call), {});
      stepper.step();
      state = state.detach();
    }
  }
  train::Report evaluate(models::Model&, train::Split) override { return {}; }
  nn::State* carried() override { return &state; }

  Pieces pieces;
  nn::State state;
  int updates = 1;
  std::vector<std::pair<int64_t, int64_t>> shapes;
};

// Counts optimizer steps.
class Counting : public TinyModel {
 public:
  Counting() : TinyModel(4) { initialize(1); }
  void on_step(nn::Step& step) override { last = step.index; }
  int64_t last = 0;
};

train::FitConfig config(int64_t steps) {
  train::FitConfig c;
  c.steps = steps;
  c.lr = 0.02;
  c.precision = "fp32";
  return c;
}

TEST(Task, MayMakeTwoStepsABatch) {
  Counting model;
  Carrying task;
  task.updates = 2;
  train::FitState state;
  EXPECT_EQ(fit(model, task, config(6), state, {}).steps, 6);
  EXPECT_EQ(task.pieces.position(), "3");
  EXPECT_EQ(model.last, 6);
}

TEST(Task, ABatchOwnsItsShape) {
  Counting model;
  Carrying task;
  task.pieces.rows_change = true;
  train::FitState state;
  std::vector<int64_t> units;
  train::FitHooks hooks;
  hooks.on_step = [&](const train::StepReport& r) { units.push_back(r.units); };
  fit(model, task, config(4), state, hooks);
  EXPECT_EQ(task.shapes, (std::vector<std::pair<int64_t, int64_t>>{{2, 1}, {4, 2}, {2, 3}, {4, 4}}));
  EXPECT_EQ(units, (std::vector<int64_t>{2, 8, 6, 16}));
}

TEST(Task, CarriedStateIsPartOfTheCheckpoint) {
  const auto folder = std::filesystem::temp_directory_path() / fmt::format("rattan_carried_{}", ::getpid());
  std::filesystem::create_directories(folder);
  Counting whole, resumed;
  Carrying whole_task, resumed_task;
  train::RunState whole_run, saved, loaded;
  fit(whole, whole_task, config(7), whole_run.fit, {});
  {
    Counting model;
    Carrying task;
    train::FitHooks stop;
    stop.after_step = [](const train::FitState& s) { return s.step == 3; };
    fit(model, task, config(7), saved.fit, stop);
    save_run_state(folder, model, task, saved, [](const std::filesystem::path& to, const train::Tensors& tensors) {
      save_tensors(to / kWeightsFile, tensors);
    });
  }
  resumed_task.state.child["stale"].t["x"] = at::ones({1});
  load_run_state(folder, resumed, resumed_task, loaded);
  EXPECT_TRUE(resumed_task.state.child.empty()) << "what was carried before is gone";
  fit(resumed, resumed_task, config(7), loaded.fit, {});
  EXPECT_TRUE(same_bits(resumed.weight.master(), whole.weight.master()));
  EXPECT_TRUE(same_bits(resumed_task.state.t.at("sum"), whole_task.state.t.at("sum")));
  std::filesystem::remove_all(folder);
}

TEST(Task, ACarriedTreeComesBackWhole) {
  const auto folder = std::filesystem::temp_directory_path() / fmt::format("rattan_tree_{}", ::getpid());
  std::filesystem::create_directories(folder);
  Counting model;
  Carrying task, fresh;
  train::RunState run, loaded;
  fit(model, task, config(1), run.fit, {});
  task.state.child["0"].child["mixer"].t["h"] = random({2, 3}, 1);
  task.state.length = at::ones({2}, at::kLong);
  save_run_state(folder, model, task, run, [](const std::filesystem::path& to, const train::Tensors& tensors) {
    save_tensors(to / kWeightsFile, tensors);
  });
  load_run_state(folder, model, fresh, loaded);
  EXPECT_TRUE(same_bits(fresh.state.child.at("0").child.at("mixer").t.at("h"), random({2, 3}, 1)));
  EXPECT_EQ(fresh.state.length[1].item<int64_t>(), 1);
  std::filesystem::remove_all(folder);
}

TEST(Task, TwoMicroBatchesOfDifferentCountsEqualOneBatch) {
  const at::Tensor x = random({2, 5, 4}, 1), y = random({2, 5, 4}, 2), weight = random({2, 5}, 3).abs();
  auto train_on = [&](const std::vector<std::pair<int64_t, int64_t>>& pieces) {
    Counting model;
    train::FitConfig c = config(1);
    c.accumulation = static_cast<int64_t>(pieces.size());
    train::FitState state;
    train::FitStepper stepper(model, c, state);
    for (auto [from, to] : pieces) {
      const nn::Layout layout = nn::Layout::uniform(2, to - from);
      nn::Call call{layout};
      const at::Tensor h = model.forward({{}, {{"x", x.slice(1, from, to)}}}, call);
      stepper.backward(model.head("").nll(h, y.slice(1, from, to), weight.slice(1, from, to), call), {});
      stepper.step();
    }
    const auto reports = stepper.take_reports();
    EXPECT_EQ(reports.size(), 1u);
    return std::pair{reports.at(0), state.optimizer.at("exp_avg.weight").clone()};
  };
  const auto [one, one_mean] = train_on({{0, 5}});
  const auto [two, two_mean] = train_on({{0, 1}, {1, 5}});
  EXPECT_NEAR(two.loss, one.loss, 1e-6 * one.loss);  // fp32 sums in another order
  EXPECT_NEAR(two.grad_norm, one.grad_norm, 1e-5 * one.grad_norm);
  EXPECT_LT(distance(two_mean, one_mean), 1e-6);
}

}  // namespace task_test_file
}  // namespace rattan::probes
