#include "rattan/infer/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>

#include "rattan/base/error.h"

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
