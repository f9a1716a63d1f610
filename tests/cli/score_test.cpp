#include <gmock/gmock.h>

#include <cmath>

#include "tests/cli/cli_fixture.h"

namespace rattan::cli::score_test {

using nlohmann::json;
using testing::HasSubstr;
using Score = CliTest;
using EvalPpl = CliTest;

TEST_F(Score, GivesOneLogprobATokenAndNullForTheFirst) {
  const std::string m = model();
  const json by_ids = rattan({"score", m, "--tokens", "97, 98,99", "--json"}).json();
  ASSERT_EQ(by_ids.at("logprobs").size(), 3u);
  EXPECT_TRUE(by_ids["logprobs"][0].is_null());
  EXPECT_LT(by_ids["logprobs"][1].get<double>(), 0);
  const json by_text = rattan({"score", m, "--text", "abc", "--json"}).json();
  EXPECT_EQ(by_text.at("logprobs"), by_ids["logprobs"]);
  EXPECT_NEAR(by_text.at("bits_per_byte").get<double>(), -by_text.at("total").get<double>() / 2 / std::log(2.0), 1e-9);
  EXPECT_EQ(rattan({"score", m, "--text", "", "--json"}).json().at("logprobs").size(), 0u);
  EXPECT_EQ(rattan({"score", m, "--tokens", "5", "--json"}).json().at("logprobs"), json::array({nullptr}));
  EXPECT_EQ(rattan({"score", m, "--text", "abc"}).code, 0);
}

TEST_F(Score, WrongUseIsExitCode2) {
  const std::string m = model();
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{"score", m}, "--tokens"},
      {{"score", m, "--text", "a", "--tokens", "1"}, "either"},
      {{"score", m, "--tokens", "1,257"}, "the id 257; the model knows 0 to 256"},
      {{"score", m, "--tokens", "1,-1"}, "the id -1"},
      {{"score", m, "--tokens", "1,x"}, "expected a number at character 2"},
      {{"score", m, "--tokens", "1 2"}, "expected a comma"},
      {{"score", m, "--tokens", "1,"}, "comma"},
      {{"score", m, "--tokens", "99999999999"}, "too large"},
      {{"score", m, "--text-file", path("none")}, "none"},
  };
  for (const auto& [arguments, reason] : cases) {
    const Outcome made = rattan(arguments);
    EXPECT_EQ(made.code, 2) << testing::PrintToString(arguments);
    EXPECT_EQ(made.out, "");
    EXPECT_THAT(made.err, HasSubstr(reason));
  }
}

TEST_F(EvalPpl, AgreesWithScoreOnAShortText) {
  const std::string m = model(), text = "In the beginning God created";
  const json ppl = rattan({"eval", "ppl", m, "--text", file("t.txt", text), "--json"}).json();
  const json score = rattan({"score", m, "--text", text, "--json"}).json();
  EXPECT_NEAR(ppl.at("perplexity").get<double>() / score.at("perplexity").get<double>(), 1, 1e-4);
  EXPECT_NEAR(ppl.at("bits_per_byte").get<double>(), score.at("bits_per_byte").get<double>(), 1e-4);
  EXPECT_EQ(ppl.at("predicted_tokens"), text.size() - 1);
  EXPECT_EQ(ppl.at("context"), 64);
  EXPECT_EQ(ppl.at("loss_by_position").back().at("to"), 32);
}

TEST_F(EvalPpl, WrongUseIsExitCode2) {
  const std::string m = model(), text = file("t.txt", "some text"), empty = file("e.txt", "");
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{"eval"}, "subcommand"},
      {{"eval", "ppl", m}, "--text"},
      {{"eval", "ppl", m, "--text", path("none")}, "none"},
      {{"eval", "ppl", m, "--text", empty}, "is empty"},
      {{"eval", "ppl", m, "--text", text, "--stride", "100"}, "the stride must be between 1 and the context (64)"},
      {{"eval", "ppl", m, "--text", text, "--context", "-4"}, "context"},
      {{"eval", "ppl", m, "--text", file("one.txt", "a")}, "at least 2"},
  };
  for (const auto& [arguments, reason] : cases) {
    const Outcome made = rattan(arguments);
    EXPECT_EQ(made.code, 2) << testing::PrintToString(arguments);
    EXPECT_EQ(made.out, "");
    EXPECT_THAT(made.err, HasSubstr(reason));
  }
}

}  // namespace rattan::cli::score_test
