// The model benchmark's report is whole and counts what was done; the search finds the largest batch. Times are never
// compared.
#include "rattan/bench/model.h"

#include <ATen/ops/equal.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>

#include "rattan/base/config.h"
#include "rattan/base/error.h"
#include "rattan/bench/fill.h"
#include "rattan/bench/largest_batch.h"
#include "rattan/bench/model_case.h"

namespace rattan::bench::model_test {

using testing::HasSubstr;

models::LanguageModelConfig config_of(const std::string& pattern) {
  models::LanguageModelConfig config;
  ConfigTree::from_text("[model]\nvocab_size = 50\nd_model = 16\nn_layers = 2\ncontext = 64\npattern = " + pattern + R"(
[mixers.rat]
type = "rat"
n_heads = 2
n_groups = 2
chunk = 4
[mixers.all]
type = "attention"
n_heads = 2
)",
                        "model.toml")
      .read(config);
  return config;
}

ModelBench tiny() {
  ModelBench config;
  config.models = {{"rat", config_of("['rat']")}, {"attention", config_of("['all']")}};
  config.batch = {1, 3};
  config.from = 12, config.count = 8, config.seq = {16, 24}, config.rows = 2, config.accumulation = 2;
  config.budget = {.seconds = 0, .min_rounds = 2, .max_rounds = 2};
  return config;
}

const ModelReport& tiny_report() {
  static const ModelBench config = tiny();
  static const ModelReport report = run_model_bench(config);
  return report;
}

TEST(ModelBench, HasARowForEveryModelModeAndSize) {
  std::map<std::string, int> rows;
  for (const ModelRow& r : tiny_report().rows) {
    SCOPED_TRACE(r.model + " " + r.mode);
    ++rows[r.mode];
    EXPECT_GE(r.time.calls, 2);
    EXPECT_GT(r.time.low, 0);
    EXPECT_LE(r.time.low, r.time.median);
    EXPECT_GT(r.flops, 0);
    EXPECT_GT(r.bytes, 0);
    EXPECT_FALSE(r.peak_bytes.has_value()) << "of a GPU only";
    if (r.mode == "decode") {
      EXPECT_EQ(r.tokens, 12);
      EXPECT_EQ(r.tokens_a_call, static_cast<double>(8 * r.batch));
      EXPECT_EQ(r.steps_a_call, 8);
    }
    if (r.mode == "train") {
      EXPECT_EQ(r.tokens_a_call, static_cast<double>(2 * 2 * r.tokens));
    }
  }
  EXPECT_EQ(rows, (std::map<std::string, int>{{"decode", 4}, {"prefill", 4}, {"train", 4}, {"products", 4}}));
}

TEST(ModelBench, ProductsAreTheModelsWithoutItsMixing) {
  std::map<std::string, const ModelRow*> of;
  for (const ModelRow& r : tiny_report().rows)
    if (r.tokens == 16) of[r.model + " " + r.mode] = &r;
  // Two layers of [96 + 16 + 8.., 16] and so on, counted by hand for attention: in 3 x 16 x 16, out 16 x 16, up and
  // down 64 x 16 each; the output matrix 50 x 16. Two operations, three times, for 32 tokens.
  EXPECT_EQ(of["attention products"]->flops, 6.0 * 32 * (2 * (4 * 256 + 2 * 1024) + 800));
  for (const char* model : {"rat", "attention"}) {
    const double train = of[std::string(model) + " train"]->flops / 2;  // of one of its two micro-batches
    const double products = of[std::string(model) + " products"]->flops;
    EXPECT_GT(train, products) << model;
    EXPECT_LT(train, 1.5 * products) << model;
  }
}

TEST(ModelBench, DecodingCountsWeightsAndStates) {
  ModelBench config = tiny();
  config.count = 4;
  const DecodeCase one(config, config.models[1].config, 1, 1), five(config, config.models[1].config, 5, 1);
  // Keys and values of 2 layers, 16 channels, fp32, at 13 to 16 tokens, for four sequences more.
  EXPECT_EQ(five.bytes() - one.bytes(), 4.0 * 2 * 2 * 16 * 4 * (13 + 14 + 15 + 16));
  const DecodeCase strided(config, config.models[1].config, 1, 3);
  EXPECT_EQ(strided.steps(), 2);
}

TEST(ModelBench, ComputedStatesAreThoseOfAPrompt) {
  auto model = random_model(config_of("['rat', 'all']"), at::kFloat, at::kCPU, false);
  nn::State state = nn::make_state(model->state_spec(), 5, 12, at::kFloat, at::kCPU);
  fill_computed(state, *model, 12, 2);
  EXPECT_EQ(state.length.min().item<int64_t>(), 12);
  const at::Tensor k = state.child.at("1").child.at("mixer").t.at("k");
  EXPECT_TRUE(at::equal(k[0], k[2]) && at::equal(k[0], k[4]) && at::equal(k[1], k[3]));
  EXPECT_FALSE(at::equal(k[0], k[1]));
  EXPECT_GT(k.select(1, 11).abs().min().item<float>(), 0) << "the last entry was written";
}

TEST(ModelBench, RunsComputedStatesCheckpointingAndStrides) {
  ModelBench config = tiny();
  config.models.pop_back(), config.batch = {2}, config.seq = {16};
  config.fill = "computed", config.stride = 3, config.checkpointing = true, config.graph = false;
  const ModelReport report = run_model_bench(config);
  EXPECT_EQ(report.rows.size(), 4u);
  EXPECT_EQ(report.rows[0].steps_a_call, 3);
}

TEST(ModelBench, TableAndJsonSayTheSame) {
  const ModelReport& report = tiny_report();
  const std::string table = to_table(report);
  for (const char* word : {"tokens/s", "decode", "prefill", "train", "products", "of copy", "attention"})
    EXPECT_THAT(table, HasSubstr(word));
  const nlohmann::json json = to_json(report);
  ASSERT_EQ(json["results"].size(), report.rows.size());
  for (size_t i = 0; i < report.rows.size(); ++i) {
    const auto& row = json["results"][i];
    EXPECT_EQ(row["tokens_per_second"], report.rows[i].tokens_per_second());
    EXPECT_EQ(row.contains("share_of_copy"), row["mode"] == "decode");
    EXPECT_EQ(row.contains("share_of_products"), row["mode"] == "train");
    EXPECT_FALSE(row.contains("share_of_peak")) << "no data sheet is known for a CPU";
  }
}

TEST(ModelBench, RefusesWhatCannotBe) {
  auto refused = [](auto change) {
    ModelBench config = tiny();
    change(config);
    EXPECT_THROW(run_model_bench(config), InputError);
  };
  refused([](ModelBench& c) { c.models.clear(); });
  refused([](ModelBench& c) { c.modes = {"sleep"}; });
  refused([](ModelBench& c) { c.batch = {0}; });  // the best batch, on a CPU
  refused([](ModelBench& c) { c.fill = "empty"; });
  refused([](ModelBench& c) { c.stride = 0; });
  refused([](ModelBench& c) { c.seq = {0}; });
  refused([](ModelBench& c) { c.rows = 0; });
}

TEST(LargestBatch, IsFoundWithFewQuestions) {
  for (int64_t most : {1, 2, 15, 16, 17, 100, 1500})
    for (int64_t truth : {0, 1, 2, 7, 15, 16, 31, 99, 1400, 1500, 9999}) {
      SCOPED_TRACE(testing::Message() << truth << " of " << most);
      const int64_t grain = batch_grain(most);
      int questions = 0;
      const int64_t found = largest_batch(most, grain, [&](int64_t n) {
        ++questions;
        EXPECT_GE(n, 1);
        EXPECT_LE(n, most);
        return n <= truth;
      });
      const int64_t best = std::min(most, truth);
      EXPECT_EQ(found, best >= grain ? best / grain * grain : best);
      EXPECT_LE(questions, 14);
    }
  EXPECT_EQ(largest_batch(0, 1, [](int64_t) { return true; }), 0);
}

TEST(LargestBatch, TriesDifferentSizesDownToHalf) {
  EXPECT_THAT(batches_to_try(800), testing::ElementsAre(800, 700, 600, 400));
  EXPECT_THAT(batches_to_try(2), testing::ElementsAre(2, 1));
  EXPECT_THAT(batches_to_try(1), testing::ElementsAre(1));
}

}  // namespace rattan::bench::model_test
