#include "rattan/infer/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>

#include "rattan/base/error.h"
#include "rattan/kernels/ref/token_draw_ref.h"

namespace rattan::infer::sampler_test {

using Logits = std::vector<float>;

int32_t draw(const Logits& logits, const SamplerConfig& config, uint64_t seed = 0,
             const std::vector<int32_t>& history = {}) {
  Rng rng = position_rng(seed, 0, 0);
  return choose(logits, {.tokens = history}, config, rng).id;
}

// How often each token came out of `draws` seeds.
std::map<int32_t, double> shares(const Logits& logits, const SamplerConfig& config, int draws = 20000) {
  std::map<int32_t, double> out;
  for (int seed = 0; seed < draws; ++seed) out[draw(logits, config, seed)] += 1.0 / draws;
  return out;
}

Logits of_probabilities(const std::vector<double>& p) {
  Logits out;
  for (double x : p) out.push_back(static_cast<float>(std::log(x)));
  return out;
}

TEST(Sampler, TemperatureZeroTakesTheLowestOfTheMostProbable) { EXPECT_EQ(draw({0, 3, 1, 3}, {.temperature = 0}), 1); }

TEST(Sampler, DrawsEachTokenAsOftenAsItIsProbable) {
  const auto share = shares(of_probabilities({0.5, 0.3, 0.2}), {});
  // Four standard deviations of a share of 20,000 draws are below 0.015.
  EXPECT_NEAR(share.at(0), 0.5, 0.015);
  EXPECT_NEAR(share.at(1), 0.3, 0.015);
  EXPECT_NEAR(share.at(2), 0.2, 0.015);
}

TEST(Sampler, TemperatureFlattensTheDistribution) {
  const auto share = shares(of_probabilities({0.8, 0.2}), {.temperature = 2});
  EXPECT_NEAR(share.at(0), 2.0 / 3.0, 0.015);  // sqrt(0.8) : sqrt(0.2) = 2 : 1
}

TEST(Sampler, TopKTopPAndMinPLeaveTheRightTokens) {
  const Logits logits = of_probabilities({0.1, 0.4, 0.2, 0.3});
  using testing::ElementsAre, testing::Key;
  EXPECT_THAT(shares(logits, {.top_k = 2}), ElementsAre(Key(1), Key(3)));
  EXPECT_THAT(shares(logits, {.top_p = 0.65}), ElementsAre(Key(1), Key(3)));
  EXPECT_THAT(shares(logits, {.top_p = 0.75}), ElementsAre(Key(1), Key(2), Key(3)));
  EXPECT_THAT(shares(logits, {.top_p = 1e-9}), ElementsAre(Key(1)));
  EXPECT_THAT(shares(logits, {.min_p = 0.6}), ElementsAre(Key(1), Key(3)));
  EXPECT_THAT(shares(logits, {.min_p = 1}), ElementsAre(Key(1)));
  EXPECT_THAT(shares(logits, {.top_k = 100}), testing::SizeIs(4));
  // top-p counts its share within the tokens that top-k left: 0.4 of 0.9 is below one half.
  EXPECT_THAT(shares(logits, {.top_k = 3, .top_p = 0.5}), ElementsAre(Key(1), Key(3)));
}

TEST(Sampler, RepetitionPenaltyHitsEachTokenOfTheHistoryOnce) {
  SamplerConfig config{.temperature = 0, .repetition_penalty = 2};
  EXPECT_EQ(draw({4, 3, -1}, config, 0, {0}), 1);          // 4 / 2 < 3
  EXPECT_EQ(draw({4, 1.5, -1}, config, 0, {0, 0, 0}), 0);  // 4 / 2 > 1.5, however often
  EXPECT_EQ(draw({-2, -3}, config, 0, {0}), 1);            // -2 * 2 < -3
}

TEST(Sampler, LogprobIsTheModelsOwn) {
  Rng rng(0);
  const std::vector<int32_t> history = {1};
  const Choice choice = choose(of_probabilities({0.25, 0.75}), {.tokens = history},
                               {.temperature = 0.1, .top_k = 1, .repetition_penalty = 1.1}, rng);
  EXPECT_NEAR(choice.logprob, std::log(choice.id == 1 ? 0.75 : 0.25), 1e-6);
}

TEST(Sampler, ChoiceDependsOnSeedSampleAndPositionAlone) {
  const Logits logits(50, 0.0f);
  auto at = [&](uint64_t seed, uint64_t sample, uint64_t position) {
    Rng rng = position_rng(seed, sample, position);
    return choose(logits, {}, {}, rng).id;
  };
  EXPECT_EQ(at(1, 2, 3), at(1, 2, 3));
  std::map<int32_t, int> seen;
  for (uint64_t i = 0; i < 20; ++i) ++seen[at(1, 2, i)], ++seen[at(1, i, 3)], ++seen[at(i, 2, 3)];
  EXPECT_GT(seen.size(), 20u);
}

// A kernel's choice (kernels/token_draw.h) is the host's: the same token for the same number, whatever the rule.
TEST(Sampler, KernelsDrawTheSameTokens) {
  Rng rng(31);
  constexpr int64_t rows = 40, vocabulary = 700;
  for (const SamplerConfig& rule : std::vector<SamplerConfig>{{},
                                                              {.temperature = 0},
                                                              {.temperature = 0.3},
                                                              {.top_k = 1},
                                                              {.top_k = 50},
                                                              {.temperature = 2, .top_p = 0.9},
                                                              {.top_k = 30, .top_p = 0.5},
                                                              {.min_p = 0.2},
                                                              {.top_k = 90, .top_p = 0.95, .min_p = 0.05}}) {
    std::vector<float> z(rows * vocabulary);
    std::vector<kernels::DrawRule> rules;
    std::vector<Choice> expected;
    for (int64_t r = 0; r < rows; ++r) {
      const std::span<float> row = std::span(z).subspan(static_cast<std::size_t>(r * vocabulary), vocabulary);
      for (float& x : row) x = static_cast<float>(2 * rng.normal());
      for (int i = 0; i < 20; ++i) row[rng.below(vocabulary)] = 3;  // ties
      Rng of_host = position_rng(31, 0, static_cast<uint64_t>(r)), of_kernel = of_host;
      expected.push_back(choose(row, {}, rule, of_host));
      rules.push_back({of_kernel.uniform(), rule.temperature, static_cast<double>(rule.top_k), rule.top_p, rule.min_p});
    }
    std::vector<int64_t> ids(rows, -1);
    std::vector<double> logprobs(rows, 0);
    kernels::ref::token_draw({rows, vocabulary, {z.data(), vocabulary}, rules.data(), ids.data(), logprobs.data()});
    for (std::size_t r = 0; r < rows; ++r) {
      SCOPED_TRACE(testing::Message() << "seed 31, row " << r << ", top_k " << rule.top_k << ", top_p " << rule.top_p);
      EXPECT_EQ(ids[r], expected[r].id);
      EXPECT_NEAR(logprobs[r], expected[r].logprob, 1e-5);  // exponentials of fp32, added up in another order
    }
  }
}

TEST(Sampler, ImpossibleTokensNeverCome) {
  const float none = -std::numeric_limits<float>::infinity();
  EXPECT_THAT(shares({none, 0, none, 0}, {.temperature = 5}, 1000),
              testing::ElementsAre(testing::Key(1), testing::Key(3)));
}

TEST(Sampler, DamagedLogitsAreAnError) {
  EXPECT_THROW(draw({0, std::nanf("")}, {}), Error);
  EXPECT_THROW(draw({0, std::numeric_limits<float>::infinity()}, {}), Error);
  EXPECT_THROW(draw(Logits(3, -std::numeric_limits<float>::infinity()), {}), Error);
}

TEST(Sampler, RefusesSettingsThatCannotBe) {
  EXPECT_THROW((SamplerConfig{.temperature = -1}.validate()), InputError);
  EXPECT_THROW((SamplerConfig{.temperature = std::nan("")}.validate()), InputError);
  EXPECT_THROW((SamplerConfig{.top_k = -1}.validate()), InputError);
  EXPECT_THROW((SamplerConfig{.top_p = 0}.validate()), InputError);
  EXPECT_THROW((SamplerConfig{.top_p = 1.5}.validate()), InputError);
  EXPECT_THROW((SamplerConfig{.min_p = 2}.validate()), InputError);
  EXPECT_THROW((SamplerConfig{.repetition_penalty = 0}.validate()), InputError);
  EXPECT_NO_THROW(SamplerConfig{}.validate());
}

}  // namespace rattan::infer::sampler_test
