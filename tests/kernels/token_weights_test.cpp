#include "rattan/kernels/token_weights.h"

#include "tests/kernels/kernel_test_util.h"

namespace rattan::kernels::token_weights_test_file {

struct Output {
  std::vector<float> weights, blocks;
  float highest = NAN;
  double sum = NAN;
};

Output run(const std::vector<float>& logits, float temperature, bool weights = true) {
  const auto n = static_cast<int64_t>(logits.size());
  Output out{std::vector<float>(logits.size(), NAN),
             std::vector<float>(static_cast<std::size_t>((n + token_block - 1) / token_block), NAN), NAN, NAN};
  token_weights({.logits = logits.data(),
                 .vocabulary = n,
                 .temperature = temperature,
                 .weights = weights ? out.weights.data() : nullptr,
                 .block_sums = weights ? out.blocks.data() : nullptr,
                 .highest = &out.highest,
                 .sum = &out.sum});
  return out;
}

// Against float64. A weight's error is that of its exponent, (z - highest) / T in fp32, and 2 ulp of exp.
TEST(TokenWeights, AreTheExponentialsAndTheirSums) {
  Rng rng(7);
  for (const int64_t n : {1, 5, 16, 255, 256, 257, 2048, 5003}) {
    for (const float temperature : {1.0f, 0.7f, 3.0f}) {
      SCOPED_TRACE("seed 7, vocabulary " + std::to_string(n) + ", temperature " + std::to_string(temperature));
      const std::vector<float> z = random_floats(rng, n, 4);
      const double highest = *std::max_element(z.begin(), z.end());
      for_each_isa([&] {
        const Output out = run(z, temperature);
        EXPECT_EQ(out.highest, highest);
        double sum = 0;
        std::vector<double> blocks(out.blocks.size(), 0);
        for (std::size_t i = 0; i < z.size(); ++i) {
          const double exponent = (z[i] - highest) / static_cast<double>(temperature), want = std::exp(exponent);
          EXPECT_NEAR(out.weights[i], want, want * (2e-7 * std::abs(exponent) + 3e-7));
          sum += std::exp(z[i] - highest);
          blocks[i / token_block] += want;
        }
        EXPECT_NEAR(out.sum, sum, 3e-6 * sum);
        EXPECT_EQ(run(z, temperature, false).sum, run(z, 1).sum) << "the sum does not depend on what else is wanted";
        for (std::size_t b = 0; b < blocks.size(); ++b) EXPECT_NEAR(out.blocks[b], blocks[b], 6e-6 * blocks[b]);
      });
    }
  }
}

TEST(TokenWeights, SayWhatIsDamaged) {
  const float none = -INFINITY;
  for_each_isa([&] {
    for (const float bad : {NAN, INFINITY}) {
      std::vector<float> z(300, 1.0f);
      z[290] = bad;
      EXPECT_TRUE(std::isnan(run(z, 1).sum)) << bad;
    }
    const Output empty = run(std::vector<float>(300, none), 1);
    EXPECT_EQ(empty.highest, none);
    EXPECT_EQ(empty.sum, 0);
    const Output one = run({none, 2, none}, 0.5f);
    EXPECT_EQ(one.weights, (std::vector<float>{0, 1, 0}));
    EXPECT_EQ(one.sum, 1);
  });
}

}  // namespace rattan::kernels::token_weights_test_file
