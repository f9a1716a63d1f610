// The choice of a token by a rule on a GPU, against its definition in plain loops.
#include "rattan/kernels/token_draw.h"

#include <limits>

#include "rattan/kernels/ref/token_draw_ref.h"
#include "tests/kernels_cuda/cuda_test_util.h"

namespace rattan::kernels::token_draw_cuda_test_file {

struct Case {
  int64_t rows, vocabulary, padding;
  DrawRule rule;
};

std::vector<Case> cases() {
  std::vector<Case> out;
  for (const DrawRule& rule :
       std::vector<DrawRule>{{.temperature = 0},
                             {.temperature = 1},
                             {.temperature = 0.2},
                             {.temperature = 1, .top_k = 1},
                             {.temperature = 1, .top_k = 40},
                             {.temperature = 3, .top_p = 0.9},
                             {.temperature = 1, .top_p = 1e-9},
                             {.temperature = 1, .top_k = 500, .top_p = 0.5},
                             {.temperature = 1, .min_p = 0.3},
                             {.temperature = 1.5, .top_k = 1000000, .top_p = 0.99, .min_p = 0.01}})
    for (auto [rows, vocabulary, padding] : std::vector<std::tuple<int64_t, int64_t, int64_t>>{
             {2, 1, 0}, {3, 31, 1}, {40, 1000, 8}, {300, 32000, 0}, {3, 50257, 3}})
      out.push_back({rows, vocabulary, padding, rule});
  return out;
}

// Exponentials of the two differ by a few units in the last place, which moves the borders between tokens by some 1e-6
// of the whole: a uniform number that near to one may fall on the other side of it.
TEST(TokenDrawCuda, IsTheDefinitionsChoice) {
  RATTAN_NEEDS_GPU();
  uint64_t seed = 1200;
  int64_t drawn = 0, other = 0;
  for (const Case& c : cases()) {
    SCOPED_TRACE(::testing::Message() << "seed " << seed << ": " << c.rows << " x " << c.vocabulary << ", temperature "
                                      << c.rule.temperature << ", top_k " << c.rule.top_k << ", top_p " << c.rule.top_p
                                      << ", min_p " << c.rule.min_p);
    Rng rng(seed++);
    Rows<float> host = Rows<float>::normal(rng, c.rows, c.vocabulary, c.padding, 3);
    std::vector<DrawRule> rules;
    for (int64_t r = 0; r < c.rows; ++r) {
      rules.push_back(c.rule);
      rules.back().uniform = rng.uniform();
      for (int64_t i = 0; i < c.vocabulary; i += 7) host.at(r, i) = static_cast<float>(i % 5);  // ties
      if (r % 9 == 5) host.at(r, r % c.vocabulary) = std::numeric_limits<float>::quiet_NaN();
      if (r % 9 == 6) host.at(r, r % c.vocabulary) = -std::numeric_limits<float>::infinity();
      if (r % 9 == 7) host.at(r, 0) = std::numeric_limits<float>::infinity();
      if (r % 9 == 8)
        for (int64_t i = 0; i < c.vocabulary; ++i) host.at(r, i) = -std::numeric_limits<float>::infinity();
    }
    const auto n = static_cast<std::size_t>(c.rows);
    std::vector<int64_t> ids(n, -1);
    std::vector<double> logprobs(n, -1);
    TokenDraw a{c.rows, c.vocabulary, {host.data(), host.stride()}, rules.data(), ids.data(), logprobs.data()};
    ref::token_draw(a);
    const DeviceRows<float> z(std::move(host), c.rows);
    const DeviceVector<DrawRule> device_rules(rules);
    DeviceVector<int64_t> device_ids(std::vector<int64_t>(n, -1));
    DeviceVector<double> device_logprobs(std::vector<double>(n, -1));
    a.logits = z.view(), a.rules = device_rules.data(), a.index = device_ids.data(), a.logprob = device_logprobs.data();
    cuda::token_draw(a, nullptr);
    const std::vector<int64_t>& got = device_ids.pull();
    const std::vector<double>& told = device_logprobs.pull();
    for (std::size_t r = 0; r < n; ++r) {
      ++drawn;
      if (std::isnan(logprobs[r])) {
        EXPECT_TRUE(std::isnan(told[r])) << "row " << r;
        EXPECT_EQ(got[r], 0) << "row " << r;
      } else if (got[r] == ids[r]) {
        EXPECT_NEAR(told[r], logprobs[r], 1e-5) << "row " << r;
      } else {
        ++other;
        ASSERT_GE(got[r], 0) << "row " << r;
        ASSERT_LT(got[r], c.vocabulary) << "row " << r;
        EXPECT_GT(c.rule.temperature, 0) << "row " << r << ": the most probable token is the same on both";
      }
    }
  }
  EXPECT_LE(other, drawn / 200) << "of " << drawn;
}

}  // namespace rattan::kernels::token_draw_cuda_test_file
