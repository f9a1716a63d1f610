// `rattan study` from file to table: what it refuses, what it repeats exactly, and how it judges.
#include <gmock/gmock.h>

#include "rattan/eval/study/results.h"
#include "tests/eval/study_fixture.h"

namespace rattan::study::study_test {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;
using testing::Not;

const fs::path root = fs::path(RATTAN_TEST_DATA).parent_path();

using Study = StudyTest;

TEST_F(Study, RunsOnceAndReportsTheSameEachTime) {
  const cli::Outcome made = study("a");
  ASSERT_EQ(made.code, 0) << made.err;
  const std::string first = reports("a");
  EXPECT_THAT(made.out, HasSubstr("RAT-4"));
  EXPECT_THAT(read_file(folder / "a/study.md"), HasSubstr(made.out)) << "terminal and Markdown have one table";
  const auto written = fs::last_write_time(folder / "a/runs/rat/seed-2/metrics.jsonl");
  ASSERT_EQ(study("a").code, 0);
  EXPECT_EQ(fs::last_write_time(folder / "a/runs/rat/seed-2/metrics.jsonl"), written) << "a finished run is left alone";
  EXPECT_EQ(reports("a"), first);
  ASSERT_EQ(study("b").code, 0);
  EXPECT_EQ(reports("b"), first) << "the same study anew gives the same bits";
  // Part by part, the arms in another order.
  EXPECT_THAT(study("c", {"--arm", "rat", "--seed", "2"}).out, HasSubstr("1 of 2"));
  EXPECT_THAT(read_file(folder / "c/study.md"), HasSubstr("Runs are missing"));
  ASSERT_EQ(study("c", {"--arm", "attention"}).code, 0);
  ASSERT_EQ(study("c", {"--seed", "1"}).code, 0);
  EXPECT_EQ(reports("c"), first);
}

TEST_F(Study, TheTableIsWhatTheRunsSay) {
  const json document = [&] {
    const cli::Outcome made = study("a", {"--json"});
    EXPECT_EQ(made.code, 0) << made.err;
    return made.json();
  }();
  EXPECT_EQ(document, json::parse(read_file(folder / "a/study.json")));
  ASSERT_EQ(document.at("arms").size(), 2u);
  const json &attention = document["arms"][0], &rat = document["arms"][1];
  EXPECT_NE(rat.at("metrics").at("loss"), attention.at("metrics").at("loss")) << "arms have settings of their own";
  EXPECT_LT(rat["metrics"].at("state_bytes").at("mean").get<double>(),
            attention["metrics"].at("state_bytes").at("mean").get<double>());
  std::vector<double> differences;
  for (int seed = 0; seed < 2; ++seed) {
    const auto result = json::parse(read_file(folder / fmt::format("a/runs/rat/seed-{}/result.json", seed + 1)));
    EXPECT_EQ(rat["runs"][seed].at("loss"), result.at("validation").at("loss"));
    EXPECT_EQ(result.at("steps"), 12);
    EXPECT_EQ(result.at("tokens"), 12 * 4 * 16);
    EXPECT_EQ(result.at("curve").size(), 3u);
    EXPECT_EQ(result.at("by_position").back().at("to"), 64) << "4 times the training length";
    differences.push_back(rat["runs"][seed]["loss"].get<double>() - attention["runs"][seed]["loss"].get<double>());
  }
  const double mean = (differences[0] + differences[1]) / 2;
  EXPECT_NEAR(rat.at("difference").at("mean").get<double>(), mean, 1e-12);
  // Two differences: t = 12.7062, s / sqrt(2) = |d1 - d2| / 2.
  EXPECT_NEAR(rat["difference"].at("high").get<double>() - mean,
              12.7062 * std::abs(differences[0] - differences[1]) / 2, 1e-5);
  // The chosen rate is the one of the lower loss, and the runs used it.
  const json& tried = rat.at("lr_tried");
  const bool second = tried[1].at("loss") < tried[0].at("loss");
  EXPECT_EQ(rat.at("lr"), tried[second ? 1 : 0].at("lr"));
  EXPECT_THAT(read_file(folder / "a/runs/rat/seed-1/config.toml"), HasSubstr(second ? "lr = 0.01" : "lr = 0.003"));
  // A run is an ordinary one: the folder is a model.
  EXPECT_EQ(rattan({"score", path("a/runs/rat/seed-1"), "--text", "the rat sat", "--json"}).code, 0);
}

TEST_F(Study, ExpectationsDecideTheExitCode) {
  auto with = [&](const std::string& expectation) {
    std::vector<std::string> words = {"study", study_file("[[expect]]\n" + expectation), "--out", path("a"), "--quiet"};
    return rattan(words);
  };
  ASSERT_EQ(study("a").code, 0);
  const json losses = json::parse(read_file(folder / "a/study.json")).at("arms");
  const double attention = losses[0]["metrics"]["loss"]["mean"], rat = losses[1]["metrics"]["loss"]["mean"];
  const std::string rising = attention < rat ? R"(["attention", "rat"])" : R"(["rat", "attention"])";
  const std::string falling = attention < rat ? R"(["rat", "attention"])" : R"(["attention", "rat"])";
  const std::pair<std::string, int> cases[] = {
      {"metric = \"loss\"\narm = \"rat\"\nlow = 0\nhigh = 100\n", 0},
      {"metric = \"loss\"\narm = \"rat\"\nhigh = 1e-3\n", 1},
      {fmt::format("metric = \"loss\"\narm = \"rat\"\nlow = {}\n", rat), 0},
      {fmt::format("metric = \"loss\"\narm = \"rat\"\nlow = {}\nwhole_interval = true\n", rat), 1},
      {"metric = \"loss\"\narm = \"rat\"\nminus = \"attention\"\nlow = -50\nhigh = 50\n", 0},
      {"metric = \"loss\"\narm = \"rat\"\nminus = \"attention\"\nlow = 50\n", 1},
      {fmt::format("metric = \"loss\"\norder = {}\n", rising), 0},
      {fmt::format("metric = \"loss\"\norder = {}\n", falling), 1},
      {"metric = \"state_bytes\"\norder = [\"rat\", \"attention\"]\n", 0},
      {"metric = \"state_bytes\"\norder = [\"attention\", \"rat\"]\n", 1},
  };
  for (const auto& [expectation, code] : cases) {
    const cli::Outcome made = with(expectation);
    EXPECT_EQ(made.code, code) << expectation << made.out << made.err;
    EXPECT_THAT(made.out, HasSubstr(code == 0 ? "| holds |" : "| fails |")) << expectation;
    EXPECT_EQ(made.err.find("1 of 1 expectations do not hold") != std::string::npos, code == 1) << made.err;
  }
  const cli::Outcome as_json =
      rattan({"study", study_file("[[expect]]\n" + cases[1].first), "--out", path("a"), "--json", "--quiet"});
  EXPECT_EQ(as_json.code, 1);
  EXPECT_EQ(as_json.json().at("expectations").at(0).at("verdict"), "fails");
  EXPECT_EQ(as_json.json().at("failed"), 1);
  // What cannot be judged yet is neither.
  const cli::Outcome open = rattan({"study", study_file("[[expect]]\n" + cases[1].first), "--out", path("b"), "--quiet",
                                    "--arm", "attention", "--seed", "1"});
  EXPECT_EQ(open.code, 0) << open.err;
  EXPECT_THAT(open.out, HasSubstr("| open |"));
}

TEST_F(Study, AChangedStudyIsRefusedWithWhatChanged) {
  ASSERT_EQ(study("a", {"--arm", "rat", "--seed", "1"}).code, 0);
  const std::string before = read_file(folder / "a/study.json");
  const std::vector<std::pair<std::vector<std::string>, std::string>> refused = {
      {{"train.steps=13"}, "train.steps is 13, was 12"},
      {{"tune.steps=5"}, "train.steps is 5, was 4"},
      {{"mixers.rat.chunk=8"}, "mixers.rat.chunk is 8, was 4"},
      {{"text.train=" + path("text/1.txt"), "text.valid=" + path("text/0.txt")}, "data of another text"},
  };
  for (const auto& [words, reason] : refused) {
    const cli::Outcome made = study("a", words);
    EXPECT_EQ(made.code, 2) << testing::PrintToString(words);
    EXPECT_THAT(made.err, HasSubstr(reason));
    EXPECT_EQ(read_file(folder / "a/study.json"), before);
  }
  // Names, seeds and how often checkpoints are written change no run that is there.
  const cli::Outcome kept = study(
      "a", {"study.title=Other", "study.seeds=[1, 7]", "run.checkpoint_every=100", "--arm", "rat", "--seed", "1"});
  EXPECT_EQ(kept.code, 0) << kept.err;
  EXPECT_THAT(kept.err, Not(HasSubstr("arm 'rat', seed 1")));
  // Another measurement trains nothing, but is made.
  const cli::Outcome measured = study("a", {"evaluate.position_tokens=200", "--arm", "rat", "--seed", "1"});
  EXPECT_EQ(measured.code, 0) << measured.err;
  EXPECT_NE(read_file(folder / "a/study.json"), before);
  EXPECT_EQ(json::parse(read_file(folder / "a/study.json"))["arms"][1]["metrics"]["loss"],
            json::parse(before)["arms"][1]["metrics"]["loss"]);
}

TEST_F(Study, ARateThatDivergesIsNotChosen) {
  const cli::Outcome made = study("a", {"tune.lr=[0.01, 1e30]", "--arm", "rat", "--seed", "1"});
  ASSERT_EQ(made.code, 0) << made.err;
  EXPECT_THAT(read_file(folder / "a/study.md"), HasSubstr("1e+30: diverged"));
  const json rat = json::parse(read_file(folder / "a/study.json"))["arms"][1];
  EXPECT_EQ(rat.at("lr"), 0.01);
  const cli::Outcome none = study("b", {"tune.lr=[1e29, 1e30]", "--arm", "rat"});
  EXPECT_EQ(none.code, 1);
  EXPECT_THAT(none.err, HasSubstr("offer lower ones"));
}

TEST_F(Study, WrongInputIsExitCode2AndLeavesNothing) {
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{"--arm", "ratt"}, "did you mean 'rat'"},
      {{"--seed", "9"}, "no selected arm has the seed 9"},
      {{"--report"}, "no study was begun there"},
      {{"--report", "--arm", "rat"}, "--report shows all"},
      {{"study.metrics=[\"los\"]"}, "did you mean 'loss'"},
      {{"study.metrics=[\"accuracy\"]"}, "has no metric 'accuracy'"},
      {{"study.metrics=[\"loss@48\"]"}, "power of 2 up to 64"},
      {{"evaluate.position_factor=0"}, "evaluate.position_factor"},
      {{"study.reference=rnn"}, "there is no arm 'rnn'"},
      {{"study.equal_parameters=1e-3"}, "model.ffn.hidden="},
      {{"study.seeds=[1.5]"}, "whole number"},
      {{"study.seeds=[1, 1]"}, "named twice"},
      {{"study.title=x", "study.titel=x"}, "study.titel"},
      {{"tune.lr=[0.01]"}, "one learning rate is no choice"},
      {{"tune.steps=0"}, "tune.steps"},
      {{"run.minutes=2"}, "run.minutes"},
      {{"arms.1.set=[\"mixers.rat.chnk=4\"]"}, "arm 'rat'"},
      {{"arms.1.name=attention"}, "is there twice"},
      {{"arms.1.name=a/b"}, "letters, digits"},
      {{"plots.2.x=model.pattern"}, "x must be a number"},
      {{"plots.2.x=model.depth"}, "no metric 'model.depth'"},
      {{"plots.0.y=lr"}, "not known at every step"},
      {{"plots.0.arms=[\"gru\"]"}, "plot 'steps'"},
      {{"expect.0.metric=loss", "expect.0.arm=rat"}, "give low, high or both"},
      {{"expect.0.metric=loss", "expect.0.arm=rat", "expect.0.low=2", "expect.0.high=1"}, "is above high"},
      {{"expect.0.metric=loss", "expect.0.order=[\"rat\"]"}, "at least 2 arms"},
      {{"expect.0.metric=loss", "expect.0.arm=lstm", "expect.0.low=0"}, "there is no arm 'lstm'"},
      {{"text.train=" + path("none")}, "text.train=my/texts"},
      {{"text.holdout=3"}, "text.holdout = 3"},
      {{"text.train="}, "no data"},
      {{"model.vocab_size=5000"}, ""},
      {{"study.base=none.toml"}, "none.toml"},
      {{"study.task=recall"}, "[text] is for"},
  };
  for (const auto& [words, reason] : cases) {
    const cli::Outcome made = study("x", words);
    EXPECT_EQ(made.code, 2) << testing::PrintToString(words) << made.err;
    EXPECT_EQ(made.out, "");
    EXPECT_THAT(made.err, HasSubstr(reason)) << testing::PrintToString(words);
    EXPECT_FALSE(fs::exists(folder / "x/study.json"));
  }
  EXPECT_EQ(rattan({"study", path("none.toml")}).code, 2);
  EXPECT_EQ(rattan({"study", file("empty.toml", "")}).code, 2);
}

TEST_F(Study, DataCanBeMadeBeforehand) {
  const cli::Outcome made = study("a", {"--prepare"});
  ASSERT_EQ(made.code, 0) << made.err;
  EXPECT_FALSE(fs::exists(folder / "a/runs"));
  const auto written = fs::last_write_time(folder / "a/data/manifest.json");
  const cli::Outcome one = study("a", {"--arm", "rat", "--seed", "1"});
  EXPECT_EQ(one.code, 0) << one.err;
  EXPECT_THAT(one.err, Not(HasSubstr("vocabulary")));
  EXPECT_EQ(fs::last_write_time(folder / "a/data/manifest.json"), written);
  EXPECT_EQ(study("a", {"--prepare", "--plan"}).code, 2);
  // Texts to validate on may be named, too.
  fs::create_directories(folder / "valid");
  fs::copy(folder / "text/2.txt", folder / "valid/2.txt");
  ASSERT_EQ(study("b", {"--prepare", "text.valid=" + path("valid")}).code, 0);
  const json splits = json::parse(read_file(folder / "b/data/manifest.json")).at("splits");
  EXPECT_EQ(splits.at("train").at("documents"), 3);
  EXPECT_EQ(splits.at("valid").at("documents"), 1);
}

TEST_F(Study, ABaseConfigurationIsLaidUnderTheStudy) {
  const std::string base = file("base.toml", R"([model]
vocab_size = 64
d_model = 32
n_layers = 3
pattern = ["mix"]
[mixers.mix]
type = "rat"
n_heads = 4
n_groups = 2
chunk = 8
)");
  const std::string over = file("over.toml", R"([study]
base = "base.toml"
task = "recall"
[model]
n_layers = 1
[[arms]]
name = "a"
[[arms]]
name = "b"
set = ["mixers.mix.chunk=64"]
)");
  const cli::Outcome made = rattan({"study", over, "--plan", "--json"});
  ASSERT_EQ(made.code, 0) << made.err;
  const json arms = made.json().at("arms");
  const json one = rattan({"inspect", base, "model.n_layers=1", "--json"}).json();
  EXPECT_EQ(arms[0].at("parameters"), one.at("parameters"));
  EXPECT_GT(arms[0].at("state_bytes"), arms[1].at("state_bytes"));
}

// The study files of the project: they are read, and the arms' sizes agree within the bound that they state.
TEST_F(Study, TheProjectsOwnStudyFilesAreSound) {
  int files = 0;
  for (const auto& entry : fs::directory_iterator(root / "recipes/studies")) {
    const cli::Outcome made = rattan({"study", entry.path().string(), "--plan", "--json"});
    EXPECT_EQ(made.code, 0) << entry.path() << made.err;
    ++files;
  }
  EXPECT_GE(files, 3);
  const json arms =
      rattan({"study", (root / "recipes/studies/quality.toml").string(), "--plan", "--json"}).json().at("arms");
  ASSERT_EQ(arms.size(), 6u);
  for (const json& arm : arms) {
    const double parameters = arm.at("non_embedding_parameters");
    EXPECT_GE(parameters, 25e6);
    EXPECT_LE(parameters, 40e6);
    EXPECT_NEAR(parameters / arms[0].at("non_embedding_parameters").get<double>(), 1, 0.01);
    EXPECT_NEAR(arm.at("run").at("tokens").get<double>(), 110e6, 1e6);
  }
}

// The recall study, shortened: pairs are looked up through chunks of one pair, not out of one vector.
TEST_F(Study, RecallSeparatesShortChunksFromOneVector) {
  const cli::Outcome made =
      rattan({"study", (root / "recipes/studies/recall.toml").string(), "--out", path("r"), "--quiet", "--json",
              "--arm", "l2,l64", "study.seeds=[1]", "train.steps=250", "train.eval_every=0", "expect.0.low=0.95"});
  ASSERT_EQ(made.code, 0) << made.err;
  int judged = 0;
  const json document = made.json();
  for (const json& expectation : document.at("expectations")) {
    EXPECT_NE(expectation.at("verdict"), "fails") << expectation;
    judged += expectation.at("verdict") == "holds";
  }
  EXPECT_EQ(judged, 2) << made.out;
}

}  // namespace rattan::study::study_test
