// A learning test: associative recall separates RAT with short chunks, whose attention reaches the ends of single
// pairs, from one vector that must hold all pairs at once (docs/results/recall.md has the whole table).
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <map>

#include "rattan/base/config.h"
#include "rattan/models/language_model.h"
#include "rattan/tasks/recall/task.h"
#include "rattan/train/fit.h"

namespace rattan::tasks {
namespace recall_test_file {

models::LanguageModelConfig model_config(const RecallConfig& recall, int64_t chunk) {
  models::LanguageModelConfig config;
  ConfigTree::from_text(fmt::format(R"(
[model]
vocab_size = {}
d_model = 64
n_layers = 2
pattern = ["mix"]
init_std = 0.05
context = {}
[mixers.mix]
type = "rat"
n_heads = 4
n_groups = 2
chunk = {}
)",
                                    recall.vocabulary(), recall.tokens(), chunk),
                        "recall")
      .read(config);
  return config;
}

train::FitConfig fit_config(int64_t steps) {
  train::FitConfig config;
  config.steps = steps;
  config.lr = 3e-3;
  config.warmup = 100;
  config.precision = "fp32";
  return config;  // AdamW (0.9, 0.95), decay 0.1, clip 1, cosine: the defaults
}

// Accuracy on the second half's values after `steps` of training.
double train_and_measure(int64_t chunk, int64_t steps, uint64_t seed, int64_t eval_every = 0) {
  RecallConfig recall;
  recall.seed = seed;
  Recall task(recall);
  models::LanguageModel model(model_config(recall, chunk));
  EXPECT_EQ(model.parameters(), 111040);
  model.initialize(seed);
  train::FitState state;
  train::FitConfig config = fit_config(steps);
  config.eval_every = eval_every;
  train::FitHooks hooks;
  if (eval_every > 0) {
    hooks.on_evaluation = [&](int64_t step, const train::Report& report) {
      std::printf("| %lld | %lld | %lld | %.4f | %.4f |\n", static_cast<long long>(chunk), static_cast<long long>(seed),
                  static_cast<long long>(step), report.at("loss"), report.at("accuracy"));
      std::fflush(stdout);
    };
  }
  return fit(model, task, config, state, hooks).final_report.at("accuracy");
}

TEST(Recall, SequencesAskForEachPairOnce) {
  RecallConfig config;
  Recall task(config);
  models::LanguageModel model(model_config(config, 2));
  model.initialize(1);
  // Untrained, a model knows no better than chance over all 64 symbols; the loss is close to log 64 = 4.16.
  const train::Report report = task.evaluate(model, train::Split::valid);
  EXPECT_NEAR(report.at("loss"), 4.16, 0.5);
  EXPECT_LT(report.at("accuracy"), 0.1);
  EXPECT_EQ(task.evaluate(model, train::Split::valid), report) << "every evaluation sees the same sequences";
}

TEST(Recall, AStreamContinuesFromItsPosition) {
  Recall a{RecallConfig{}}, b{RecallConfig{}};
  for (int i = 0; i < 3; ++i) a.stream(train::Split::train).next();
  b.stream(train::Split::train).restore(a.stream(train::Split::train).position());
  EXPECT_EQ(b.stream(train::Split::train).position(), "3");
  EXPECT_THROW(b.stream(train::Split::train).restore("3 batches"), InputError);
  RecallConfig few;
  few.keys = 15;
  EXPECT_THROW(Recall{few}, InputError);
}

// Pairs, then questions about some of them among noise: each question is about a pair of this sequence, no pair is
// asked for twice, and all else is noise.
TEST(Recall, QuestionsStandAmongNoise) {
  RecallConfig config;
  config.queries = 5;
  config.noise = 7;
  config.batch = 16;
  ASSERT_EQ(config.tokens(), 2 * 16 + 2 * 5 + 7);
  Recall task(config);
  const auto batch = task.stream(train::Split::train).next();
  const auto& made = dynamic_cast<RecallBatch&>(*batch);
  const auto ids = made.ids.accessor<int64_t, 2>(), targets = made.targets.accessor<int64_t, 2>();
  for (int64_t row = 0; row < config.batch; ++row) {
    SCOPED_TRACE(row);
    std::map<int64_t, int64_t> value;
    for (int64_t t = 0; t < 2 * config.pairs; t += 2) {
      EXPECT_LT(ids[row][t], config.keys);
      EXPECT_LT(targets[row][t], 0);
      value[ids[row][t]] = ids[row][t + 1];
    }
    EXPECT_EQ(value.size(), 16u) << "keys do not repeat";
    int64_t questions = 0, noise = 0;
    for (int64_t t = 2 * config.pairs; t < config.tokens(); ++t) {
      if (targets[row][t] < 0) {
        ++noise;
        EXPECT_GE(ids[row][t], config.keys + config.values);
        EXPECT_LT(ids[row][t], config.vocabulary());
        continue;
      }
      ++questions;
      EXPECT_EQ(targets[row][t], value.at(ids[row][t]));
      EXPECT_EQ(targets[row][t], ids[row][t + 1]) << "the answer follows the question";
      value.erase(ids[row][t]);
      EXPECT_LT(targets[row][++t], 0);
    }
    EXPECT_EQ(questions, 5);
    EXPECT_EQ(noise, 7);
  }
  config.queries = 17;
  EXPECT_THROW(Recall{config}, InputError);
}

TEST(Recall, ShortChunksLearnItAndOneVectorDoesNot) {
  EXPECT_GT(train_and_measure(2, 250, 1), 0.95);
  EXPECT_LT(train_and_measure(64, 250, 1), 0.4);
}

// The whole experiment; RATTAN_RECALL_FULL names the chunk lengths to train, RATTAN_RECALL_SEED the seed.
TEST(Recall, FullTable) {
  const char* chunks = std::getenv("RATTAN_RECALL_FULL");
  if (!chunks) GTEST_SKIP() << "set RATTAN_RECALL_FULL=1,2,4,8,16,64 to print the table";
  const char* seed = std::getenv("RATTAN_RECALL_SEED");
  std::printf("| chunk L | seed | step | loss | accuracy |\n| --- | --- | --- | --- | --- |\n");
  for (const char* at = chunks; *at != '\0';) {
    char* end = nullptr;
    const int64_t chunk = std::strtoll(at, &end, 10);
    ASSERT_GT(chunk, 0) << "RATTAN_RECALL_FULL must be chunk lengths with commas between them";
    train_and_measure(chunk, 600, seed ? std::strtoull(seed, nullptr, 10) : 1, 200);
    at = *end == ',' ? end + 1 : end;
  }
}

}  // namespace recall_test_file
}  // namespace rattan::tasks
