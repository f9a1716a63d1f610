// A benchmark's report is whole and says what was asked for. Times are never compared: only their form is.
#include "rattan/bench/layer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>
#include <tuple>

#include "rattan/base/error.h"
#include "rattan/bench/interleave.h"
#include "rattan/bench/layer_case.h"

namespace rattan::bench::layer_test {

using testing::HasSubstr;

LayerBench tiny() {
  LayerBench config;
  config.d_model = 32, config.heads = 4, config.window = 8;
  config.mixers = {"rat:4", "rnn", "swa:8", "products", "attention", "attention:torch"};
  config.seq = {16, 32};
  config.batch = 2;
  config.budget = {.seconds = 0, .min_rounds = 2, .max_rounds = 2};
  return config;
}

const LayerReport& tiny_report() {
  static const LayerBench config = tiny();
  static const LayerReport report = run_layer_bench(config);
  return report;
}

TEST(LayerBench, HasARowForEveryMixerModeAndLength) {
  const LayerReport& report = tiny_report();
  ASSERT_EQ(report.rows.size(), 6u * 2 * 3);
  std::set<std::tuple<std::string, std::string, int64_t>> seen;
  for (const LayerRow& row : report.rows) {
    SCOPED_TRACE(row.mixer + " " + row.mode);
    seen.insert({row.mixer, row.mode, row.seq});
    EXPECT_EQ(row.batch, 2);
    EXPECT_GE(row.time.calls, 2);
    EXPECT_GT(row.time.low, 0);
    EXPECT_LE(row.time.low, row.time.median);
    EXPECT_LE(row.time.median, row.time.high);
    EXPECT_GT(row.flops, 0);
    EXPECT_GT(row.bytes, 0);
  }
  EXPECT_EQ(seen.size(), report.rows.size());
  EXPECT_GT(report.ceilings.flops, 0);
  EXPECT_GT(report.ceilings.bytes, 0);
}

TEST(LayerBench, CountsTheArithmeticOfTraining) {
  // Three forwards; the products of a layer are what its mixer does at least.
  std::map<std::pair<std::string, std::string>, double> flops;
  for (const LayerRow& row : tiny_report().rows)
    if (row.seq == 32) flops[{row.mixer, row.mode}] = row.flops;
  for (const std::string mixer : {"rat:4", "rnn", "products", "attention"})
    EXPECT_DOUBLE_EQ((flops[{mixer, "train"}]), (3 * flops[{mixer, "prefill"}])) << mixer;
  EXPECT_LT((flops[{"products", "prefill"}]), (flops[{"rat:4", "prefill"}]));
  // 64 tokens through [32, 96 + 2 * 2 * 8] and [32, 32], two operations each.
  EXPECT_DOUBLE_EQ((flops[{"products", "prefill"}]), 2.0 * 64 * 32 * (96 + 32 + 32));
}

TEST(LayerBench, BatchFollowsTheTokensOfACall) {
  LayerBench config = tiny();
  config.mixers = {"rnn"}, config.modes = {"prefill"}, config.tokens = 64;
  const LayerReport report = run_layer_bench(config);
  ASSERT_EQ(report.rows.size(), 2u);
  EXPECT_EQ(report.rows[0].batch, 4);
  EXPECT_EQ(report.rows[1].batch, 2);
}

TEST(LayerBench, DocumentsFillEachRow) {
  LayerBench config = tiny();
  config.mixers = {"rat:4", "rnn", "swa:8", "attention", "products"};
  config.modes = {"train", "prefill"}, config.seq = {32}, config.documents = {7, 20};
  EXPECT_EQ(documents_of(config, 32), (std::vector<int64_t>{7, 20, 5}));
  EXPECT_EQ(documents_of(config, 6), (std::vector<int64_t>{6}));
  EXPECT_EQ(documents_of(tiny(), 32), (std::vector<int64_t>{32}));
  const LayerReport packed = run_layer_bench(config);
  config.documents = {};
  const LayerReport whole = run_layer_bench(config);
  ASSERT_EQ(packed.rows.size(), whole.rows.size());
  for (size_t i = 0; i < whole.rows.size(); ++i) {
    // What attends to everything before it has less to do in short documents; the others have as much.
    const bool same = whole.rows[i].mixer == "rnn" || whole.rows[i].mixer == "products";
    EXPECT_EQ(packed.rows[i].flops == whole.rows[i].flops, same) << whole.rows[i].mixer;
    EXPECT_LE(packed.rows[i].flops, whole.rows[i].flops) << whole.rows[i].mixer;
  }
  EXPECT_THAT(to_table(packed), HasSubstr("documents of 7, 20 tokens"));
}

TEST(LayerBench, ComparesWithAttentionUnlessToldOtherwise) {
  LayerBench config = tiny();
  EXPECT_EQ(comparison_of(config), "attention:torch");
  config.mixers = {"attention", "rnn"};
  EXPECT_EQ(comparison_of(config), "attention");
  config.mixers = {"rat:4", "rnn"};
  EXPECT_EQ(comparison_of(config), "rnn");
  config.against = "rat:4";
  EXPECT_EQ(comparison_of(config), "rat:4");
}

TEST(LayerBench, JsonHoldsEveryRow) {
  const nlohmann::json json = to_json(tiny_report());
  EXPECT_EQ(json.at("d_model"), 32);
  EXPECT_EQ(json.at("dtype"), "Float");
  ASSERT_EQ(json.at("rows").size(), tiny_report().rows.size());
  for (const nlohmann::json& row : json.at("rows")) {
    for (const char* key : {"mixer", "mode", "tokens", "batch", "seconds", "seconds_low", "seconds_high", "calls",
                            "flops", "bytes", "flops_per_second", "share_of_ceiling", "speed"})
      EXPECT_TRUE(row.contains(key)) << key;
    EXPECT_EQ(row.contains("multiple_of_products"), row.at("mixer") != "products");
    EXPECT_FALSE(row.contains("peak_bytes")) << "a processor's memory is not counted";
    EXPECT_EQ(row.contains("outside_products"), row.at("mixer") == "rat:4");
    if (row.at("mixer") == "attention:torch") {
      EXPECT_EQ(row.at("speed"), 1);
    }
  }
}

TEST(LayerBench, TableNamesEveryMixer) {
  const std::string table = to_table(tiny_report());
  for (const std::string& mixer : tiny().mixers) EXPECT_THAT(table, HasSubstr("\n" + mixer + " ")) << mixer;
  EXPECT_THAT(table, HasSubstr("outside the matrix products"));
  EXPECT_THAT(table, HasSubstr("against attention:torch"));
}

TEST(LayerBench, PlotHasALineForEveryMixer) {
  for (const std::string mode : {"train", "prefill", "decode"}) {
    const std::string svg = to_plot(tiny_report(), mode);
    EXPECT_THAT(svg, testing::StartsWith("<svg"));
    EXPECT_THAT(svg, HasSubstr(mode));
    for (const std::string& mixer : tiny().mixers) EXPECT_THAT(svg, HasSubstr(">" + mixer + "<")) << mixer;
  }
}

TEST(LayerBench, RunsInBf16) {
  LayerBench config = tiny();
  config.dtype = at::kBFloat16, config.seq = {16};
  EXPECT_EQ(run_layer_bench(config).rows.size(), 6u * 3);
}

TEST(LayerBench, RunsMixersInFp8BesideBf16) {
  LayerBench config = tiny();
  config.dtype = at::kBFloat16, config.seq = {16};
  config.mixers = {"rat:4", "rat:4+fp8_emulated", "products", "products+fp8_emulated", "attention:torch+fp8_emulated"};
  const LayerReport report = run_layer_bench(config);
  ASSERT_EQ(report.rows.size(), 15u);
  const nlohmann::json json = to_json(report);
  for (const nlohmann::json& row : json.at("rows")) {
    SCOPED_TRACE(row.dump());
    EXPECT_GT(row.at("flops").get<double>(), 0);
    const std::string mixer = row.at("mixer");
    EXPECT_EQ(row.contains("outside_products"), mixer.starts_with("rat"));
    EXPECT_EQ(row.contains("multiple_of_products"), mixer != "products") << "of those in bf16";
  }
  EXPECT_LT(report.rows[11].bytes, report.rows[10].bytes) << "decoding reads a byte a weight";
  EXPECT_EQ(beside_fp8({"rat:16", "rnn+fp8"}), (std::vector<std::string>{"rat:16", "rat:16+fp8", "rnn+fp8"}));
}

TEST(LayerBench, RefusesWhatItDoesNotKnow) {
  auto refusal = [](const std::function<void(LayerBench&)>& spoil) -> std::string {
    LayerBench config = tiny();
    spoil(config);
    try {
      run_layer_bench(config);
    } catch (const InputError& error) {
      return error.what();
    }
    return "was taken";
  };
  EXPECT_THAT(refusal([](LayerBench& c) { c.mixers = {"rats"}; }), HasSubstr("rats"));
  EXPECT_THAT(refusal([](LayerBench& c) { c.mixers = {"rat:"}; }), HasSubstr("whole number"));
  EXPECT_THAT(refusal([](LayerBench& c) { c.mixers = {"rat:-4"}; }), HasSubstr("whole number"));
  EXPECT_THAT(refusal([](LayerBench& c) { c.mixers = {"rat:0"}; }), HasSubstr("chunk"));
  EXPECT_THAT(refusal([](LayerBench& c) { c.mixers = {"swa:many"}; }), HasSubstr("whole number"));
  EXPECT_THAT(refusal([](LayerBench& c) { c.mixers = {"attention:16"}; }), HasSubstr("attention:torch"));
  EXPECT_THAT(refusal([](LayerBench& c) { c.mixers = {"rnn:16"}; }), HasSubstr("rnn:16"));
  EXPECT_THAT(refusal([](LayerBench& c) { c.mixers = {"rat:4+fp4"}; }), HasSubstr("after '+' stands fp8"));
  EXPECT_THAT(refusal([](LayerBench& c) { c.mixers = {"rat:4+fp8_emulated"}; }), HasSubstr("--dtype bf16"));
  EXPECT_THAT(refusal([](LayerBench& c) { c.mixers = {"rat:4+fp8"}, c.dtype = at::kBFloat16; }),
              HasSubstr("compute capability 9.0"));
  EXPECT_THAT(refusal([](LayerBench& c) { c.mixers = {}; }), HasSubstr("at least one mixer"));
  EXPECT_THAT(refusal([](LayerBench& c) { c.modes = {"trian"}; }), HasSubstr("trian"));
  EXPECT_THAT(refusal([](LayerBench& c) { c.seq = {0}; }), HasSubstr("at least one token"));
  EXPECT_THAT(refusal([](LayerBench& c) { c.batch = 0; }), HasSubstr("at least 1"));
  EXPECT_THAT(refusal([](LayerBench& c) { c.heads = 5; }), HasSubstr("5 heads"));
  EXPECT_THAT(refusal([](LayerBench& c) { c.groups = 3; }), HasSubstr("groups"));
  EXPECT_THAT(refusal([](LayerBench& c) { c.against = "rat:5"; }), HasSubstr("rat:5"));
  EXPECT_THAT(refusal([](LayerBench& c) { c.documents = {5}; }), HasSubstr("attention:torch"));
  auto packed = [](LayerBench& c) { c.mixers = {"rnn"}, c.documents = {5}; };
  EXPECT_THAT(refusal(packed), HasSubstr("decode"));
  EXPECT_THAT(refusal([&](LayerBench& c) { packed(c), c.documents = {0}; }), HasSubstr("at least one token"));
}

TEST(Interleave, TakesTurnsThereAndBack) {
  std::string order;
  auto candidate = [&](char name) {
    return Candidate{[&order, name] {
      order += name;
      std::this_thread::sleep_for(std::chrono::milliseconds(6));
    }};
  };
  const auto times = interleave({candidate('a'), candidate('b')}, {.seconds = 0, .min_rounds = 3, .max_rounds = 3});
  EXPECT_EQ(order, "aabbabbaab");
  ASSERT_EQ(times.size(), 2u);
  EXPECT_EQ(times[0].calls, 3);
}

TEST(Interleave, PreparesEveryCallAndSkipsTheFirstOfAWarmOne) {
  std::string order;
  auto note = [&](char name) {
    return [&order, name] {
      order += name;
      if (name == 'a') std::this_thread::sleep_for(std::chrono::milliseconds(6));
    };
  };
  interleave({{.run = note('a'), .prepare = note('p'), .warm = true}},
             {.seconds = 0, .min_rounds = 2, .max_rounds = 2});
  EXPECT_EQ(order, "papapa");
}

TEST(Interleave, ABudgetLimitsTheSlow) {
  auto pause = [](int milliseconds) {
    return Candidate{.run = [=] { std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds)); }};
  };
  const auto times =
      interleave({pause(6), pause(100)}, {.seconds = 0, .min_rounds = 4, .max_rounds = 4, .limit = 0.15});
  EXPECT_EQ(times[0].calls, 4);
  EXPECT_EQ(times[1].calls, 1);
}

TEST(Interleave, MedianAndSpread) {
  const Timing odd = summarize({3, 1, 2}), even = summarize({4, 1, 2, 3});
  EXPECT_EQ(odd.median, 2);
  EXPECT_EQ(odd.low, 1);
  EXPECT_EQ(odd.high, 3);
  EXPECT_EQ(odd.calls, 3);
  EXPECT_EQ(even.median, 2.5);
  EXPECT_EQ(summarize({}).calls, 0);
}

}  // namespace rattan::bench::layer_test
