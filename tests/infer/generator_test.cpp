#include "rattan/infer/generator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "rattan/base/error.h"
#include "rattan/infer/score.h"
#include "rattan/infer/utf8.h"
#include "tests/infer/tiny_model.h"

namespace rattan::infer::generator_test {

class GeneratorTest : public testing::Test {
 protected:
  Request request(const std::string& prompt, uint64_t sample = 0, int64_t max_tokens = 24) const {
    Request r;
    r.prompt = tokenizer->encode(prompt);
    r.max_tokens = max_tokens;
    r.seed = 7;
    r.sample = sample;
    return r;
  }
  std::vector<Generation> run(const std::vector<Request>& requests, bool strict = false, int64_t chunk = 512) {
    GeneratorConfig config;
    config.strict = strict;
    config.prefill_chunk = chunk;
    return Generator(*model, *tokenizer, config).run(requests);
  }

  std::unique_ptr<models::LanguageModel> model = tiny_model();
  std::unique_ptr<Tokenizer> tokenizer = bytes_tokenizer();
};

TEST_F(GeneratorTest, LogprobsAreThoseOfScoringTheResult) {
  const Request r = request("In the beginning");
  const Generation made = run({r}).front();
  std::vector<int32_t> ids = r.prompt;
  ids.insert(ids.end(), made.ids.begin(), made.ids.end());
  const std::vector<double> scores = score(*model, ids);
  // Both are fp32 sums over the same few hundred numbers in another order.
  for (std::size_t i = 0; i < made.ids.size(); ++i)
    EXPECT_NEAR(made.logprobs[i], scores[r.prompt.size() - 1 + i], 1e-4);
}

TEST_F(GeneratorTest, GreedyTakesTheMostProbableTokenWhateverTheBatch) {
  Request a = request("abc"), b = request("a somewhat longer prompt, of more than one chunk");
  a.sampling.temperature = b.sampling.temperature = 0;
  const auto alone_a = run({a}), alone_b = run({b}, false, 5), together = run({a, b, a});
  EXPECT_EQ(together[0].ids, alone_a[0].ids);
  EXPECT_EQ(together[1].ids, alone_b[0].ids);
  EXPECT_EQ(together[2].ids, alone_a[0].ids);
}

TEST_F(GeneratorTest, StrictTextDoesNotDependOnWhatRunsBeside) {
  std::vector<Request> all;
  for (uint64_t sample = 0; sample < 4; ++sample) all.push_back(request("In the", sample));
  all.push_back(request("something of another length", 0, 40));
  const auto together = run(all, true, 7);
  for (std::size_t i = 0; i < all.size(); ++i) {
    SCOPED_TRACE(i);
    const Generation alone = run({all[i]}, true, 7).front();
    EXPECT_EQ(together[i].ids, alone.ids);
    EXPECT_EQ(together[i].logprobs, alone.logprobs) << "not bit for bit";
  }
  EXPECT_NE(together[0].ids, together[1].ids) << "samples must differ";
}

TEST_F(GeneratorTest, ContinuingWithWhatWasMadeGivesTheSameText) {
  const Request whole = request("In the", 2, 20);
  const Generation all = run({whole}, true).front();
  Request rest = whole;
  rest.prompt.insert(rest.prompt.end(), all.ids.begin(), all.ids.begin() + 8);
  rest.max_tokens = 12;
  const Generation tail = run({rest}, true).front();
  EXPECT_EQ(tail.ids, std::vector<int32_t>(all.ids.begin() + 8, all.ids.end()));
}

TEST_F(GeneratorTest, EventsAddUpToTheTextInWholeCharacters) {
  std::vector<std::string> shown(3);
  std::vector<int> ends(3, 0);
  std::vector<Request> all = {request("a"), request("b"), request("", 1)};
  const auto made = Generator(*model, *tokenizer).run(all, [&](const TokenEvent& event) {
    EXPECT_EQ(valid_utf8(event.text), event.text);
    EXPECT_EQ(ends[event.request], 0) << "a token after the last one";
    shown[event.request] += event.text;
    ends[event.request] += event.finish.has_value();
  });
  for (std::size_t i = 0; i < all.size(); ++i) {
    EXPECT_EQ(shown[i], made[i].text);
    EXPECT_EQ(ends[i], 1);
    EXPECT_EQ(made[i].text, valid_utf8(tokenizer->decode(made[i].ids)));
  }
}

TEST_F(GeneratorTest, StopsBeforeAStopStringAndShowsNoPartOfIt) {
  Request free = request("In the", 0, 60);
  const Generation all = run({free}, true).front();
  const std::string raw = tokenizer->decode(all.ids);
  ASSERT_GE(raw.size(), 30u);
  Request stopped = free;
  stopped.stop = {raw.substr(20, 4)};
  const std::size_t at = raw.find(stopped.stop[0]);
  GeneratorConfig config;
  config.strict = true;
  std::string shown;
  const Generation made =
      Generator(*model, *tokenizer, config).run({stopped}, [&](const TokenEvent& e) { shown += e.text; })[0];
  EXPECT_EQ(made.finish, Finish::stop);
  EXPECT_EQ(made.text, valid_utf8(raw.substr(0, at)));
  EXPECT_EQ(shown, made.text);
}

TEST_F(GeneratorTest, EndsWithTheEndToken) {
  const Request free = request("In the", 0, 40);
  const Generation all = run({free}, true).front();
  Request ended = free;
  ended.end_token = all.ids[10];
  const Generation made = run({ended}, true).front();
  const auto first = std::find(all.ids.begin(), all.ids.end(), ended.end_token) - all.ids.begin();
  EXPECT_EQ(made.finish, Finish::end_of_document);
  EXPECT_EQ(made.ids.size(), static_cast<std::size_t>(first) + 1);
  EXPECT_EQ(made.text, valid_utf8(tokenizer->decode(std::span(all.ids).first(static_cast<std::size_t>(first)))));
}

TEST_F(GeneratorTest, AnEmptyPromptStartsBehindTheEndOfADocument) {
  Request empty = request("");
  Request explicit_start = empty;
  explicit_start.prompt = {tokenizer->eos()};
  EXPECT_EQ(run({empty}).front().ids, run({explicit_start}).front().ids);
}

TEST_F(GeneratorTest, TokensBeyondTheVocabularyOfTheTokenizerNeverCome) {
  auto config = tiny_config("model.vocab_size=400");
  model = std::make_unique<models::LanguageModel>(config);
  model->initialize(1);
  Request r = request("x", 0, 200);
  r.sampling.temperature = 50;
  const Generation made = run({r}).front();
  for (int32_t id : made.ids) EXPECT_LT(id, 257);
}

TEST_F(GeneratorTest, WarnsOnceWhenATextOutgrowsTheTrainedContext) {
  std::vector<std::string> warnings;
  GeneratorConfig config;
  config.trained_context = 16;
  config.warn = [&](const std::string& text) { warnings.push_back(text); };
  Generator generator(*model, *tokenizer, config);
  generator.run({request("12345678", 0, 9)});  // the last token is made at 16 and never read
  EXPECT_TRUE(warnings.empty());
  generator.run({request("12345678", 0, 20), request("1234567", 0, 20)});
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_THAT(warnings[0], testing::HasSubstr("16 tokens"));
}

// The state is made for the first 512 tokens and grows from there.
TEST_F(GeneratorTest, TextsThatOutgrowTheFirstStateGoOnAsBefore) {
  const Request r = request("In the", 0, 700);
  const Generation made = run({r}, true).front();
  ASSERT_EQ(made.ids.size(), 700u);
  std::vector<int32_t> ids = r.prompt;
  ids.insert(ids.end(), made.ids.begin(), made.ids.end());
  const std::vector<double> scores = score(*model, ids);  // in a state of the whole length
  for (std::size_t i = 500; i < made.ids.size(); ++i)
    ASSERT_NEAR(made.logprobs[i], scores[r.prompt.size() - 1 + i], 1e-3) << i;  // fp32 over two layers
}

TEST_F(GeneratorTest, RefusesWhatCannotBe) {
  Request bad = request("a");
  bad.max_tokens = 0;
  EXPECT_THROW(run({bad}), InputError);
  bad = request("a");
  bad.prompt = {1000};
  EXPECT_THROW(run({bad}), InputError);
  bad = request("a");
  bad.sampling.top_p = 0;
  EXPECT_THROW(run({bad}), InputError);
  bad = request("a");
  bad.stop = {""};
  EXPECT_THROW(run({bad}), InputError);
  EXPECT_THROW(run({request("a")}, false, 0), InputError);
  EXPECT_TRUE(run({}).empty());
}

}  // namespace rattan::infer::generator_test
