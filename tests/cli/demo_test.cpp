// `rattan demo` from a text to a report, on a tiny text and a tiny model.
#include <gmock/gmock.h>
#include <signal.h>
#include <stdlib.h>

#include <chrono>
#include <thread>

#include "cli_fixture.h"
#include "rattan/cli/config_file.h"
#include "rattan/train/metrics.h"
#include "rattan/train/stop_signals.h"

namespace rattan::cli {
namespace demo_test_file {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;

class DemoTest : public CliTest {
 protected:
  // 400 lines in which every word follows from the one before, more or less.
  std::string text() const {
    static const char* words[] = {"light", "upon", "the waters", "and", "darkness", "over", "the deep", "said", "good"};
    std::string lines;
    for (int i = 0; i < 400; ++i) {
      lines += "Ge" + std::to_string(1 + i / 20) + ":" + std::to_string(1 + i % 20);
      for (int j = 0; j < 6; ++j) lines += std::string(" ") + words[(i * i + 4 * j) % 9];
      lines += ".\n";
    }
    return file("text.txt", lines);
  }
  std::vector<std::string> demo(const std::string& steps, std::vector<std::string> more = {}) const {
    std::vector<std::string> all = {"demo", "--out", path("demo"), "--quiet", "--json"};
    all.insert(all.end(), more.begin(), more.end());
    if (steps.empty()) return all;
    for (const std::string& argument :
         {std::string("--text"), text(), std::string("--minutes"), std::string("0"), "train.steps=" + steps,
          std::string("model.vocab_size=300"), std::string("model.d_model=16"), std::string("model.n_layers=2"),
          std::string("mixers.rat.n_heads=2"), std::string("mixers.local.n_heads=2"), std::string("data.seq_len=16"),
          std::string("data.batch=2"), std::string("run.sample_tokens=5"), std::string("run.peak_tflops=1"),
          std::string("run.threads=1"), std::string("run.sample_prompt=Ge")})
      all.push_back(argument);
    return all;
  }
};

TEST_F(DemoTest, MakesEverythingAndSaysSoTheSecondTime) {
  const Outcome first = rattan(demo("6"));
  ASSERT_EQ(first.code, 0) << first.err;
  const json made = first.json();
  EXPECT_EQ(made["status"], "trained");
  EXPECT_EQ(made["steps"], 6);
  EXPECT_GT(made["bits_per_byte"].get<double>(), 0);
  EXPECT_EQ(made["samples"].size(), 1);
  for (const char* name : {"text/train.txt", "text/valid.txt", "tokenizer.model", "data/manifest.json", "config.toml",
                           "metrics.jsonl", "samples.txt", "report.html", "checkpoints/step-6/DONE"})
    EXPECT_TRUE(fs::exists(folder / "demo" / name)) << name;
  // The two parts are the text, cut at a line; a 20th or a little more is held out.
  const std::string valid = read_file(folder / "demo/text/valid.txt");
  EXPECT_EQ(read_file(folder / "demo/text/train.txt") + valid, read_file(text()));
  EXPECT_EQ(valid.substr(0, 2), "Ge");
  const json manifest = json::parse(read_file(folder / "demo/data/manifest.json"));
  EXPECT_EQ(manifest["splits"]["valid"]["bytes"], valid.size());
  EXPECT_EQ(manifest["splits"]["train"]["documents"], 1);

  const Outcome second = rattan(demo(""));
  ASSERT_EQ(second.code, 0) << second.err;
  EXPECT_EQ(second.json()["status"], "trained before");
  EXPECT_EQ(second.json()["bits_per_byte"], made["bits_per_byte"]);
  EXPECT_THAT(second.err, HasSubstr("--again"));

  const Outcome other = rattan(demo("6"));  // settings cannot be laid over a run that is there
  EXPECT_EQ(other.code, 2);
  EXPECT_THAT(other.err, HasSubstr("--again"));
  const Outcome again = rattan(demo("4", {"--again"}));
  ASSERT_EQ(again.code, 0) << again.err;
  EXPECT_EQ(again.json()["steps"], 4);
  EXPECT_THAT(again.err, HasSubstr("data is there already"));
  EXPECT_FALSE(fs::exists(folder / "demo/checkpoints/step-6"));
}

TEST_F(DemoTest, ContinuesAfterASignal) {
  train::StopSignals late_signals_are_harmless;
  const fs::path metrics = folder / "demo/metrics.jsonl";
  std::thread interrupter([&] {
    for (int i = 0; i < 6000; ++i) {
      std::error_code none;
      if (fs::exists(metrics, none) && fs::file_size(metrics, none) > 0) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    kill(getpid(), SIGINT);
  });
  const Outcome stopped = rattan(demo("200"));
  interrupter.join();
  ASSERT_EQ(stopped.code, 130) << stopped.err;
  EXPECT_EQ(stopped.out, "");
  EXPECT_THAT(stopped.err, HasSubstr("same command continues"));
  const auto before = train::read_metrics(metrics);
  const Outcome rest = rattan(demo(""));
  ASSERT_EQ(rest.code, 0) << rest.err;
  EXPECT_EQ(rest.json()["status"], "continued");
  EXPECT_EQ(rest.json()["steps"], 200);
  // No step was made twice: the lines of the first part stand, and the next step follows.
  const auto after = train::read_metrics(metrics);
  ASSERT_GT(after.size(), before.size());
  for (std::size_t i = 0; i < before.size(); ++i) EXPECT_EQ(after[i], before[i]);
  EXPECT_EQ(after[before.size()]["step"], before.back()["step"].get<int64_t>() + 1);
}

TEST_F(DemoTest, SaysHowToGetTheText) {
  const std::string former = getenv("PATH");
  setenv("PATH", folder.c_str(), 1);
  const Outcome outcome = rattan({"demo", "--out", path("demo")});
  setenv("PATH", former.c_str(), 1);
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("bible-kjv"));
  EXPECT_THAT(outcome.err, HasSubstr("--text"));
  EXPECT_FALSE(fs::exists(folder / "demo"));
}

TEST_F(DemoTest, RefusesWrongUse) {
  EXPECT_EQ(rattan({"demo", "--out", path("demo"), "--text", path("none.txt")}).code, 2);
  EXPECT_EQ(rattan({"demo", "--out", path("demo"), "--text", file("short.txt", "Ge1:1 In the\n")}).code, 2);
  EXPECT_EQ(rattan({"demo", "--out", path("demo"), "--minutes=-1"}).code, 2);
  EXPECT_EQ(rattan({"demo", "--out", path("demo"), "--text", text(), "train.rl=1"}).code, 2);
  EXPECT_FALSE(fs::exists(folder / "demo"));
  fs::create_directories(folder / "mine/checkpoints");
  EXPECT_EQ(rattan({"demo", "--out", path("mine"), "--again"}).code, 2);
  EXPECT_TRUE(fs::exists(folder / "mine/checkpoints"));
}

TEST_F(DemoTest, TheRecipeIsOfTheSizePromised) {
  const fs::path recipe = fs::path(RATTAN_TEST_DATA).parent_path() / "recipes/demo.toml";
  const Outcome outcome = rattan({"inspect", recipe.string(), "--json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_GT(outcome.json()["parameters"], 3'500'000);
  EXPECT_LT(outcome.json()["parameters"], 4'500'000);
}

}  // namespace demo_test_file
}  // namespace rattan::cli
