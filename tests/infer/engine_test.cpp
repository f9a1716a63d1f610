// The engine's contract: answers, limits, cancelling, what is told.
#include "rattan/infer/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <future>

#include "rattan/base/error.h"
#include "rattan/infer/score.h"
#include "tests/infer/engine_tools.h"

namespace rattan::infer::engine_test {

class EngineTest : public testing::Test {
 protected:
  std::vector<int32_t> ids(const std::string& text) const { return tokenizer->encode(text); }
  std::unique_ptr<Engine> engine(bool strict = false, int64_t sequences = 8) {
    return std::make_unique<Engine>(*model, *tokenizer, small_engine(strict, sequences));
  }

  std::unique_ptr<models::LanguageModel> model = tiny_model();
  std::unique_ptr<Tokenizer> tokenizer = bytes_tokenizer();
};

TEST_F(EngineTest, AnswersAsTheGeneratorDoes) {
  auto e = engine();
  Request r;
  r.prompt = ids("In the beginning God created the heaven");
  r.max_tokens = 30;
  r.seed = 7;
  const Generation made = Generator(*model, *tokenizer).run({r}).front();
  const Answer answer = ask(*e, plain_request(r.prompt, 30, 7)).answer;
  EXPECT_EQ(answer.ids, made.ids);
  EXPECT_EQ(answer.text, made.text);
  for (std::size_t i = 0; i < made.ids.size(); ++i) EXPECT_NEAR(answer.logprobs[i], made.logprobs[i], 1e-4);
}

TEST_F(EngineTest, ChoicesShareThePromptAndDifferBySeedAlone) {
  auto e = engine(true, 3);  // fewer rows than choices
  EngineRequest r = plain_request(ids("In the"), 12, 5);
  r.choices = 5;
  Answers all(5);
  e->submit(r, all.listener());
  const auto& answers = all.wait();
  for (int64_t choice = 0; choice < 5; ++choice) {
    SCOPED_TRACE(choice);
    Request alone;
    alone.prompt = r.prompt;
    alone.max_tokens = 12;
    alone.seed = 5;
    alone.sample = static_cast<uint64_t>(choice);
    EXPECT_EQ(answers[static_cast<std::size_t>(choice)].ids, Generator(*model, *tokenizer).run({alone}).front().ids);
  }
}

TEST_F(EngineTest, LogprobsAreThoseOfScoring) {
  auto e = engine();
  EngineRequest r = plain_request(ids("In the beginning God created the heaven and the earth."), 6);
  r.prompt_logprobs = true;
  r.top_logprobs = 3;
  Answers told;
  e->submit(r, told.listener());
  const Answer answer = told.wait().front();
  std::vector<int32_t> all = r.prompt;
  all.insert(all.end(), answer.ids.begin(), answer.ids.end());
  const std::vector<double> scores = score(*model, all);
  ASSERT_EQ(told.prompt_top.size(), r.prompt.size() - 1);
  for (std::size_t i = 0; i + 1 < r.prompt.size(); ++i) {
    ASSERT_EQ(told.prompt_top[i].size(), 4u);
    EXPECT_EQ(told.prompt_top[i][0].id, r.prompt[i + 1]);
    EXPECT_NEAR(told.prompt_top[i][0].logprob, scores[i], 1e-4);  // fp32 sums in another order
    EXPECT_GE(told.prompt_top[i][1].logprob, told.prompt_top[i][2].logprob);
  }
  for (std::size_t i = 0; i < answer.ids.size(); ++i) {
    EXPECT_NEAR(answer.logprobs[i], scores[r.prompt.size() - 1 + i], 1e-4);
    ASSERT_EQ(answer.top[i].size(), 3u);
    EXPECT_GE(answer.top[i][0].logprob, answer.logprobs[i] - 1e-12);
  }
}

TEST_F(EngineTest, ReadsAPromptWithoutMakingTokens) {
  auto e = engine();
  EngineRequest r = plain_request(ids("In the beginning"), 0);
  r.prompt_logprobs = true;
  Answers told;
  e->submit(r, told.listener());
  EXPECT_TRUE(told.wait().front().ids.empty());
  EXPECT_EQ(told.prompt_top.size(), r.prompt.size() - 1);
  EXPECT_EQ(told.events, 2);  // prompt, finished
}

TEST_F(EngineTest, BiasPenaltiesAndStopStringsShapeTheText) {
  auto e = engine(true);
  EngineRequest r = plain_request(ids("In the"), 20);
  r.sampling.temperature = 0;
  r.logit_bias = {{'x', 1000.0f}};
  EXPECT_EQ(ask(*e, r).answer.text, std::string(20, 'x'));
  r.sampling.frequency_penalty = 100;
  r.logit_bias = {{'x', 250.0f}, {'y', 225.0f}};  // 250 225, 150 225, 150 125, 50 125: x y x y, then anything
  EXPECT_EQ(ask(*e, r).answer.text.substr(0, 4), "xyxy");
  r.sampling.frequency_penalty = 0;
  r.stop = {"xxx"};
  const Answer stopped = ask(*e, r).answer;
  EXPECT_EQ(stopped.finish, Finish::stop);
  EXPECT_EQ(stopped.text, "");
  EXPECT_EQ(stopped.ids.size(), 3u);
  r.stop.clear();
  r.end_tokens = {'x'};
  EXPECT_EQ(ask(*e, r).answer.finish, Finish::end_of_document);
}

TEST_F(EngineTest, AGrammarDecidesWhatMayCome) {
  struct Digits : Grammar {  // three digits, then the end
    std::vector<uint64_t> digits = std::vector<uint64_t>(5, 0), end = digits;
    Digits() {
      for (int c = '0'; c <= '9'; ++c) digits[static_cast<std::size_t>(c) / 64] |= uint64_t{1} << (c % 64);
      end[256 / 64] = 1;
    }
    int64_t start() const override { return 0; }
    const std::vector<uint64_t>& allowed(int64_t state) const override { return state < 3 ? digits : end; }
    int64_t next(int64_t state, int32_t) const override { return state + 1; }
  };
  auto e = engine();
  EngineRequest r = plain_request(ids("In the"), 20);
  r.grammar = std::make_shared<Digits>();
  r.end_tokens = {256};
  const Answer answer = ask(*e, r).answer;
  EXPECT_EQ(answer.finish, Finish::end_of_document);
  EXPECT_THAT(answer.text, testing::MatchesRegex("[0-9][0-9][0-9]"));
}

TEST_F(EngineTest, CancelledRequestsFreeTheirSlotAndAreToldNothingMore) {
  auto e = engine(false, 1);
  Answers first, second;
  EngineRequest endless = plain_request(ids("In the"), 150);
  const uint64_t id = e->submit(endless, first.listener());
  e->submit(plain_request(ids("And"), 3), second.listener());
  while (first.tokens() < 5) std::this_thread::yield();
  e->cancel(id);
  const int64_t events = first.events;
  EXPECT_EQ(second.wait().front().ids.size(), 3u);
  EXPECT_EQ(first.events, events);
  e->cancel(id);  // again, and what never was: nothing happens
  e->cancel(1 << 20);
  EXPECT_EQ(e->stats().cancelled, 1u);
}

TEST_F(EngineTest, CancellingFromTheListenerEndsTheRequest) {
  auto e = engine();
  std::promise<void> third;
  int64_t told = 0;
  std::atomic<uint64_t> id = 0;
  id = e->submit(plain_request(ids("In the"), 100), [&](const EngineEvent& event) {
    if (event.kind != EngineEvent::Kind::token) return;
    while (id == 0) std::this_thread::yield();
    if (++told == 3) e->cancel(id), third.set_value();
  });
  third.get_future().get();
  e->drain(60);
  EXPECT_EQ(told, 3);
}

TEST_F(EngineTest, WhoGoesOnFromACancelledAnswerReadsNothingOfItAgain) {
  auto e = engine();
  std::vector<int32_t> text = ids("In the");
  std::atomic<uint64_t> id = 0;
  id = e->submit(plain_request(text, 100), [&](const EngineEvent& event) {
    if (event.kind != EngineEvent::Kind::token) return;
    while (id == 0) std::this_thread::yield();
    text.push_back(event.token.id);
    if (text.size() == 15) e->cancel(id);
  });
  while (e->stats().cancelled == 0) std::this_thread::yield();
  while (e->stats().running > 0) std::this_thread::yield();
  text.push_back('x');
  EXPECT_EQ(ask(*e, plain_request(text, 1)).reused, 14) << "all but the answer's last token";
}

TEST_F(EngineTest, AFullQueueAndAStoppingEngineAreBusy) {
  EngineConfig config = small_engine(false, 1);
  config.max_waiting = 2;
  Engine e(*model, *tokenizer, config);
  std::vector<std::unique_ptr<Answers>> all;
  bool busy = false;
  for (int i = 0; i < 10 && !busy; ++i) {
    all.push_back(std::make_unique<Answers>());
    try {
      e.submit(plain_request(ids("In the"), 100), all.back()->listener());
    } catch (const Busy&) {
      busy = true;
      all.pop_back();
    }
  }
  EXPECT_TRUE(busy);
  e.drain(60);
  for (auto& answers : all) EXPECT_TRUE(answers->wait().front().done);
  EXPECT_THROW(e.submit(plain_request(ids("In the"), 1), {}), Busy);
}

TEST_F(EngineTest, DrainingCutsOffWhatTakesTooLong) {
  auto e = engine(true, 1);
  Answers cut;
  e->submit(plain_request(ids("In the"), 180), cut.listener());
  e->drain(0);
  cut.wait();
  EXPECT_THAT(cut.error, testing::HasSubstr("stopping"));
}

TEST_F(EngineTest, AListenerThatThrowsLosesItsRequestAlone) {
  auto e = engine();
  Answers good;
  e->submit(plain_request(ids("In the"), 50), [](const EngineEvent&) { throw std::runtime_error("mine"); });
  e->submit(plain_request(ids("In the"), 5), good.listener());
  EXPECT_EQ(good.wait().front().ids.size(), 5u);
  e->drain(60);
  EXPECT_EQ(e->stats().failed, 1u);
}

TEST_F(EngineTest, RefusesWhatCannotBe) {
  auto e = engine();
  const auto refused = [&](auto change) {
    EngineRequest r = plain_request(ids("In the"), 5);
    change(r);
    EXPECT_THROW(e->submit(r, {}), InputError);
  };
  refused([](EngineRequest& r) { r.prompt.clear(); });
  refused([](EngineRequest& r) { r.prompt.push_back(257); });
  refused([](EngineRequest& r) { r.prompt.push_back(-1); });
  refused([](EngineRequest& r) { r.max_tokens = 187; });
  refused([](EngineRequest& r) { r.max_tokens = INT64_MAX; });
  refused([](EngineRequest& r) { r.max_tokens = -1; });
  refused([](EngineRequest& r) { r.choices = 0; });
  refused([](EngineRequest& r) { r.stop = {""}; });
  refused([](EngineRequest& r) { r.logit_bias = {{300, 1.0f}}; });
  refused([](EngineRequest& r) { r.logit_bias = {{3, NAN}}; });
  refused([](EngineRequest& r) { r.sampling.top_p = 0; });
  refused([](EngineRequest& r) { r.top_logprobs = 1000; });
  EngineConfig small = small_engine(false);
  small.memory = 100;
  EXPECT_THROW(Engine(*model, *tokenizer, small), InputError);
  EXPECT_EQ(ask(*e, plain_request(ids("In the"), 186)).answer.ids.size(), 186u);
}

}  // namespace rattan::infer::engine_test
