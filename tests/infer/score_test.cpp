#include "rattan/infer/score.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/log_softmax.h>
#include <gtest/gtest.h>

#include <cmath>

#include "rattan/base/error.h"
#include "rattan/infer/context.h"
#include "rattan/infer/perplexity.h"
#include "tests/infer/tiny_model.h"

namespace rattan::infer::score_test {

std::vector<int32_t> text(std::size_t n) {
  Rng rng(5);
  std::vector<int32_t> ids;
  while (ids.size() < n) ids.push_back(static_cast<int32_t>(rng.below(257)));
  return ids;
}

// All logits of one forward pass, the plain way.
std::vector<double> whole(models::LanguageModel& model, std::span<const int32_t> ids) {
  at::NoGradGuard no_grad;
  const auto n = static_cast<int64_t>(ids.size());
  const nn::Layout layout = nn::Layout::uniform(1, n);
  nn::Call call{layout};
  const at::Tensor h = model.forward({ids_tensor(ids, at::kCPU).unsqueeze(0), {}}, call);
  const at::Tensor logp = at::log_softmax(model.head().logits(h[0], call), -1);
  std::vector<double> out;
  for (int64_t t = 0; t + 1 < n; ++t) out.push_back(logp[t][ids[static_cast<std::size_t>(t + 1)]].item<double>());
  return out;
}

void expect_near(const std::vector<double>& a, const std::vector<double>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-4) << i;  // fp32, other order of sums
}

TEST(Score, ChunksOfAnyLengthGiveTheLogprobsOfOneForward) {
  auto model = tiny_model();
  const auto ids = text(50);
  const auto expected = whole(*model, ids);
  for (int64_t chunk : {1, 3, 49, 512}) {
    SCOPED_TRACE(chunk);
    expect_near(score(*model, ids, {.chunk = chunk, .trained_context = 0, .warn = {}}), expected);
  }
}

TEST(Score, OneTokenAndNoneHaveNoLogprobs) {
  auto model = tiny_model();
  EXPECT_TRUE(score(*model, text(1)).empty());
  EXPECT_TRUE(score(*model, {}).empty());
}

TEST(Score, IdsOutOfRangeAreNamed) {
  EXPECT_THROW(check_ids(std::vector<int32_t>{1, 257}, 257), InputError);
  EXPECT_THROW(check_ids(std::vector<int32_t>{-1}, 257), InputError);
  EXPECT_NO_THROW(check_ids(std::vector<int32_t>{0, 256}, 257));
}

TEST(Perplexity, OneWindowIsTheScoreOfTheText) {
  auto model = tiny_model();
  const auto ids = text(40);
  double sum = 0;
  for (double x : score(*model, ids)) sum -= x;
  const Perplexity result = perplexity(*model, ids, {.context = 64, .stride = 64});
  EXPECT_EQ(result.tokens, 39);
  EXPECT_NEAR(result.nats, sum, 1e-3);
  EXPECT_NEAR(result.perplexity(), std::exp(sum / 39), 1e-3 * std::exp(sum / 39));
  EXPECT_NEAR(result.bits_per_byte(39), sum / 39 / std::log(2.0), 1e-4);
}

// Every token once, each in the first window that holds it, by scoring the windows one after another.
TEST(Perplexity, OverlappingWindowsCountEachTokenOnce) {
  auto model = tiny_model();
  const auto ids = text(45);
  for (auto [context, stride] : {std::pair{10, 10}, {10, 4}, {8, 1}, {44, 3}}) {
    SCOPED_TRACE(testing::Message() << "context " << context << ", stride " << stride);
    double sum = 0;
    std::size_t done = 1;  // tokens predicted or never predicted
    for (std::size_t begin = 0; done < ids.size(); begin += static_cast<std::size_t>(stride)) {
      const std::size_t end = std::min(ids.size(), begin + static_cast<std::size_t>(context) + 1);
      const auto scores = score(*model, std::span(ids).subspan(begin, end - begin));
      for (std::size_t t = done; t < end; ++t) sum -= scores[t - begin - 1];
      done = std::max(done, end);
    }
    const Perplexity result = perplexity(*model, ids, {.context = context, .stride = stride, .batch_tokens = 30});
    EXPECT_EQ(result.tokens, 44);
    EXPECT_NEAR(result.nats, sum, 2e-3);
    int64_t counted = 0;
    double by_position = 0;
    for (const PositionLoss& p : result.by_position) {
      EXPECT_LE(p.to, context);
      counted += p.tokens;
      by_position += p.loss * static_cast<double>(p.tokens);
    }
    EXPECT_EQ(counted, 44);
    EXPECT_NEAR(by_position, result.nats, 1e-6);
  }
}

TEST(Perplexity, RefusesWindowsThatCannotBe) {
  auto model = tiny_model();
  const auto ids = text(10);
  EXPECT_THROW(perplexity(*model, ids, {.context = 0, .stride = 1}), InputError);
  EXPECT_THROW(perplexity(*model, ids, {.context = 4, .stride = 5}), InputError);
  EXPECT_THROW(perplexity(*model, ids, {.context = 4, .stride = 0}), InputError);
  EXPECT_THROW(perplexity(*model, text(1), {.context = 4, .stride = 4}), InputError);
}

}  // namespace rattan::infer::score_test
