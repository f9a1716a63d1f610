#include <gmock/gmock.h>

#include "tests/cli/cli_fixture.h"

namespace rattan::cli::generate_test {

using nlohmann::json;
using testing::HasSubstr;
using Generate = CliTest;

TEST_F(Generate, JsonIsOneDocumentWithTokensLogprobsAndTiming) {
  const Outcome made = rattan({"generate", model(), "--prompt", "In the", "--max-tokens", "9", "--n", "3", "--json"});
  ASSERT_EQ(made.code, 0) << made.err;
  const json document = made.json();
  ASSERT_EQ(document.at("samples").size(), 3u);
  for (const json& sample : document["samples"]) {
    EXPECT_EQ(sample.at("prompt_tokens").size(), 6u);
    EXPECT_LE(sample.at("tokens").size(), 9u);
    EXPECT_EQ(sample["tokens"].size(), sample.at("logprobs").size());
    for (const json& x : sample["logprobs"]) EXPECT_LT(x.get<double>(), 0);
  }
  EXPECT_EQ(document.at("timing").at("prefill_tokens"), 6);  // one prompt, read once
  EXPECT_GT(document["timing"].at("decode_tokens_per_second").get<double>(), 0);
}

TEST_F(Generate, TheSameSeedGivesTheSameTextAndStrictWhateverTheBatch) {
  const std::string m = model();
  auto texts = [&](std::vector<std::string> more) {
    std::vector<std::string> arguments = {"generate", m, "--prompt", "In the", "--max-tokens", "20", "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    std::vector<std::string> out;
    const json document = rattan(arguments).json();
    for (const json& sample : document.at("samples")) out.push_back(sample.at("tokens").dump());
    return out;
  };
  EXPECT_EQ(texts({"--seed", "5"}), texts({"--seed", "5"}));
  EXPECT_NE(texts({"--seed", "5"}), texts({"--seed", "6"}));
  const auto four = texts({"--strict", "--n", "4"});
  EXPECT_EQ(texts({"--strict"})[0], four[0]);
  EXPECT_NE(four[0], four[1]);
}

TEST_F(Generate, TextGoesToStdoutAndTheRestToStderr) {
  const std::string m = model();
  const Outcome plain = rattan({"generate", m, "--prompt", "In the", "--max-tokens", "5", "--greedy"});
  ASSERT_EQ(plain.code, 0);
  EXPECT_THAT(plain.err, HasSubstr("tokens/s"));
  const Outcome echoed = rattan({"generate", m, "--prompt", "In the", "--max-tokens", "5", "--greedy", "--echo"});
  EXPECT_EQ(echoed.out, "In the" + plain.out);
  const Outcome from_file =
      rattan({"generate", m, "--prompt-file", file("p.txt", "In the"), "--max-tokens", "5", "--greedy"});
  EXPECT_EQ(from_file.out, plain.out);
}

TEST_F(Generate, AnEmptyPromptAndOneLongerThanTheContextWork) {
  const std::string m = model();
  EXPECT_EQ(rattan({"generate", m, "--max-tokens", "3"}).code, 0);
  const Outcome longer =
      rattan({"generate", m, "--prompt", std::string(100, 'x'), "--max-tokens", "3", "--prefill-chunk", "7"});
  EXPECT_EQ(longer.code, 0);
  EXPECT_THAT(longer.err, HasSubstr("warning: the text is longer than the 64 tokens"));
}

TEST_F(Generate, WrongUseIsExitCode2WithOneReason) {
  const std::string m = model();
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{"generate"}, "model"},
      {{"generate", path("none")}, "does not exist"},
      {{"generate", m, "--temperature", "-1"}, "temperature must be at least 0"},
      {{"generate", m, "--top-p", "0"}, "top-p"},
      {{"generate", m, "--n", "0"}, "--n must be at least 1"},
      {{"generate", m, "--max-tokens", "0"}, "at least 1"},
      {{"generate", m, "--stop", ""}, "stop string"},
      {{"generate", m, "--device", "gpu"}, "unknown device 'gpu'"},
      {{"generate", m, "--dtype", "fp4"}, "unknown type 'fp4'"},
      {{"generate", m, "--dtype", "fp8"}, "compute capability 9.0"},
      {{"generate", m, "--prompt", "a", "--prompt-file", "b"}, "more than once"},
      {{"generate", m, "--prompt-file", path("none")}, "none"},
      {{"generate", m, "what"}, "unexpected argument 'what'"},
      {{"generate", m, "--seed", "x"}, "seed"},
  };
  for (const auto& [arguments, reason] : cases) {
    const Outcome made = rattan(arguments);
    EXPECT_EQ(made.code, 2) << testing::PrintToString(arguments);
    EXPECT_EQ(made.out, "") << testing::PrintToString(arguments);
    EXPECT_THAT(made.err, HasSubstr(reason)) << testing::PrintToString(arguments);
  }
}

}  // namespace rattan::cli::generate_test
