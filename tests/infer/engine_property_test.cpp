// Where a state comes from makes no difference: read afresh, reused from the prefix cache, restored from a file, or
// left after another end of the same text. And no request sees its neighbours.
#include <ATen/Context.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "rattan/base/error.h"
#include "tests/infer/engine_tools.h"

namespace rattan::infer::engine_property_test {

using Ids = std::vector<int32_t>;

// overlapping: tokens are chosen as on a GPU, and a step starts before the last one's tokens are known. On a GPU that
// is what engines do unless they are strict, and their steps are recorded.
enum class Mode : int8_t { strict, within_rounding, overlapping, strict_on_gpu, on_gpu };

bool is_strict(Mode mode) { return mode == Mode::strict || mode == Mode::strict_on_gpu; }
bool needs_gpu(Mode mode) { return mode == Mode::strict_on_gpu || mode == Mode::on_gpu; }

std::string name_of(const testing::TestParamInfo<Mode>& info) {
  const char* names[] = {"Strict", "WithinRounding", "Overlapping", "StrictOnAGpu", "OnAGpu"};
  return names[static_cast<std::size_t>(info.param)];
}

std::vector<NamedModel> models_for(Mode mode) {
  std::vector<NamedModel> models = engine_models();
  if (needs_gpu(mode))
    for (NamedModel& m : models) m.model->initialize(3, at::kFloat, at::Device(at::kCUDA, 0));
  return models;
}

struct Fixture {
  std::unique_ptr<Tokenizer> tokenizer = bytes_tokenizer();
  std::unique_ptr<Engine> engine(NamedModel& m, Mode mode) {
    EngineConfig config = small_engine(is_strict(mode));
    config.overlap = mode == Mode::overlapping || needs_gpu(mode);
    return std::make_unique<Engine>(*m.model, *tokenizer, config);
  }
  // Nothing is reused and no step overlaps another.
  std::unique_ptr<Engine> plain_engine(NamedModel& m, bool strict) {
    EngineConfig config = small_engine(strict);
    config.prefix_cache = config.graph = false;
    config.overlap = false;
    return std::make_unique<Engine>(*m.model, *tokenizer, config);
  }
};

Ids joined(const Ids& a, const Ids& b, const Ids& c = {}) {
  Ids out = a;
  out.insert(out.end(), b.begin(), b.end());
  out.insert(out.end(), c.begin(), c.end());
  return out;
}

// How near two computations of the same come to each other.
enum class Closeness : int8_t { bitwise, rounding, bits_8 };

Closeness closeness(const NamedModel& m, bool strict) {
  return strict ? Closeness::bitwise : m.model->cache_in_8_bits ? Closeness::bits_8 : Closeness::rounding;
}

// Bit for bit; or for numbers within rounding: tokens of such different logits stay the same. Where the cache has 8
// bits a last bit of fp32 can move an entry by a whole step of 2^-7: then a draw near the border between two tokens may
// end on the other side, and what follows is another text.
void expect_same(const Answer& a, const Answer& b, Closeness closeness) {
  if (closeness != Closeness::bits_8) {
    EXPECT_EQ(a.ids, b.ids);
  }
  ASSERT_EQ(a.logprobs.size(), b.logprobs.size());
  for (std::size_t i = 0; i < a.logprobs.size() && a.ids[i] == b.ids[i]; ++i) {
    if (closeness == Closeness::bitwise) {
      EXPECT_EQ(a.logprobs[i], b.logprobs[i]) << "token " << i << " not bit for bit";
    } else {
      // fp32 through two layers, summed in other orders
      EXPECT_NEAR(a.logprobs[i], b.logprobs[i], closeness == Closeness::bits_8 ? 0.05 : 1e-3) << i;
    }
  }
}

class EveryModel : public testing::TestWithParam<Mode> {
 protected:
  void SetUp() override {
    if (needs_gpu(GetParam()) && !at::Context::hasCUDA()) GTEST_SKIP() << "no GPU";
  }
  bool strict() const { return is_strict(GetParam()); }
};
class TightMemory : public EveryModel {};  // on a processor: a GPU's rows are all there from the start
TEST_P(EveryModel, ReusedRestoredRolledBackAndFreshStatesAreOne) {
  Fixture f;
  for (NamedModel& m : models_for(GetParam())) {
    for (uint64_t seed = 1; seed <= 3; ++seed) {
      SCOPED_TRACE(testing::Message() << m.name << ", seed " << seed);
      Rng rng(seed);
      const Ids prompt = some_ids(rng, 1 + static_cast<int64_t>(rng.below(60)));
      auto e = f.engine(m, GetParam()), fresh = f.plain_engine(m, strict());
      const Answer first = ask(*e, plain_request(prompt, 20, seed)).answer;
      expect_same(first, ask(*fresh, plain_request(prompt, 20, seed)).answer, closeness(m, strict()));

      // A second turn, an edit within the answer, another within the prompt, the prompt alone again.
      const Ids more = some_ids(rng, 5);
      const Ids turn = joined(prompt, first.ids, more);
      const Ids edited = joined(prompt, Ids(first.ids.begin(), first.ids.begin() + 7), more);
      const auto half = static_cast<std::ptrdiff_t>(prompt.size() / 2);
      const Ids early = joined(Ids(prompt.begin(), prompt.begin() + half), more);
      for (const Ids& next : {turn, edited, early, prompt}) {
        const Told told = ask(*e, plain_request(next, 12, seed));
        EXPECT_LT(told.reused, std::ssize(next));
        expect_same(told.answer, ask(*fresh, plain_request(next, 12, seed)).answer, closeness(m, strict()));
      }

      const std::string path = testing::TempDir() + "rattan-session-" + std::to_string(getpid());
      e->save(turn, path, {{"seed", "7"}});
      auto other = f.engine(m, GetParam());
      Engine::Notes notes;
      EXPECT_EQ(other->restore(path, &notes), turn);
      EXPECT_EQ(notes.at("seed"), "7");
      const Told restored = ask(*other, plain_request(turn, 12, seed));
      EXPECT_EQ(restored.reused, std::ssize(turn) - 1);
      expect_same(restored.answer, ask(*fresh, plain_request(turn, 12, seed)).answer, closeness(m, strict()));
      std::filesystem::remove(path);
    }
  }
}

// Requests of all lengths that come and go in any order.
TEST_P(EveryModel, NeighboursMakeNoDifference) {
  Fixture f;
  for (NamedModel& m : models_for(GetParam())) {
    const uint64_t seed = 11;
    SCOPED_TRACE(testing::Message() << m.name << ", seed " << seed);
    Rng rng(seed);
    auto e = f.engine(m, GetParam()), alone = f.plain_engine(m, strict());
    std::vector<EngineRequest> requests;
    std::vector<std::unique_ptr<Answers>> answers;
    std::vector<uint64_t> cancelled;
    const Ids shared = some_ids(rng, 20);
    for (int i = 0; i < 24; ++i) {
      EngineRequest r = plain_request(some_ids(rng, 1 + static_cast<int64_t>(rng.below(80))),
                                      1 + static_cast<int64_t>(rng.below(30)), rng.next_u64());
      if (rng.below(2)) r.prompt = joined(shared, r.prompt);
      if (rng.below(3) == 0) r.sampling.temperature = 0;
      if (rng.below(4) == 0) r.sampling.top_p = 0.8;
      if (rng.below(8) == 0) r.sampling.frequency_penalty = 0.5;  // the host chooses
      if (rng.below(3) == 0) r.end_tokens = some_ids(rng, 12);
      if (rng.below(3) == 0) r.stop = {std::string(1, static_cast<char>('a' + rng.below(26)))};
      const bool leaves = rng.below(4) == 0;
      auto told = std::make_unique<Answers>();
      const uint64_t id = e->submit(r, told->listener());
      if (leaves) {
        while (rng.below(3) && told->tokens() == 0) std::this_thread::yield();
        e->cancel(id);
        cancelled.push_back(id);
        continue;
      }
      requests.push_back(r);
      answers.push_back(std::move(told));
    }
    for (std::size_t i = 0; i < requests.size(); ++i) {
      SCOPED_TRACE(testing::Message() << "request " << i);
      const Answer together = answers[i]->wait().front();
      expect_same(together, ask(*alone, requests[i]).answer, closeness(m, strict()));
    }
    e->drain(60);
    const EngineStats stats = e->stats();
    EXPECT_EQ(stats.running, 0);
    EXPECT_EQ(stats.waiting, 0);
    EXPECT_EQ(stats.failed, 0u);
    EXPECT_LE(stats.state_bytes + stats.cache_bytes, stats.memory);
  }
}

// A memory of hardly more than one sequence: the others wait, are put aside and come back.
TEST_P(TightMemory, SequencesThatDoNotFitTogetherTakeTurns) {
  Fixture f;
  for (NamedModel& m : models_for(GetParam())) {
    SCOPED_TRACE(m.name);
    EngineConfig config = small_engine(strict(), 4);
    config.overlap = GetParam() == Mode::overlapping;
    config.memory = m.model->state_spec().bytes(config.max_context, m.model->compute) * 3 / 2;
    Engine e(*m.model, *f.tokenizer, config);
    auto alone = f.plain_engine(m, strict());
    Rng rng(5);
    std::vector<EngineRequest> requests;
    std::vector<std::unique_ptr<Answers>> answers;
    for (int i = 0; i < 4; ++i) {
      requests.push_back(plain_request(some_ids(rng, 20), 150, rng.next_u64()));
      answers.push_back(std::make_unique<Answers>());
      e.submit(requests.back(), answers.back()->listener());
    }
    for (std::size_t i = 0; i < requests.size(); ++i)
      expect_same(answers[i]->wait().front(), ask(*alone, requests[i]).answer, closeness(m, strict()));
    e.drain(60);
    const EngineStats stats = e.stats();
    EXPECT_LE(stats.state_bytes + stats.cache_bytes, stats.memory);
    // States that do not grow never run out.
    if (m.name == "rat" || m.name == "attention") {
      EXPECT_GT(stats.preempted, 0u);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Engine, EveryModel,
                         testing::Values(Mode::strict, Mode::within_rounding, Mode::overlapping, Mode::strict_on_gpu,
                                         Mode::on_gpu),
                         name_of);
INSTANTIATE_TEST_SUITE_P(Engine, TightMemory, testing::Values(Mode::strict, Mode::overlapping), name_of);

TEST(EngineMemory, ASecondTurnReadsItsNewTokensAndAChunkAtMost) {
  Fixture f;
  for (NamedModel& m : engine_models()) {
    SCOPED_TRACE(m.name);
    auto e = f.engine(m, Mode::within_rounding);
    Rng rng(9);
    const Ids prompt = some_ids(rng, 90);
    const Answer first = ask(*e, plain_request(prompt, 30)).answer;
    const Ids turn = joined(prompt, first.ids, some_ids(rng, 10));
    const uint64_t before = e->stats().prompt_tokens;
    const Told told = ask(*e, plain_request(turn, 1));
    const int64_t grain = m.name == "rat 4 + rat 5" ? 20 : 5;
    EXPECT_GE(told.reused, 119 - grain + 1);
    e->drain(60);
    EXPECT_LE(e->stats().prompt_tokens - before, 10u + 2 * static_cast<uint64_t>(grain));
    EXPECT_EQ(e->stats().cache_hits, 1u);
  }
}

// An end token is no part of the next turn, so the state to go on from is the one before it, overlapping or not.
TEST(EngineMemory, ATurnAfterAnEndTokenGoesOnFromBeforeIt) {
  Fixture f;
  for (NamedModel& m : engine_models()) {
    SCOPED_TRACE(m.name + ", seed 21");
    auto e = f.engine(m, Mode::overlapping);
    Rng rng(21);
    EngineRequest r = plain_request(some_ids(rng, 50), 100);
    r.end_tokens = some_ids(rng, 40);
    const Answer first = ask(*e, r).answer;
    ASSERT_EQ(first.finish, Finish::end_of_document);
    const Ids said(first.ids.begin(), first.ids.end() - 1);
    const Told told = ask(*e, plain_request(joined(r.prompt, said, some_ids(rng, 10)), 1));
    const int64_t grain = m.name == "rat 4 + rat 5" ? 20 : 5;
    EXPECT_GE(told.reused, 50 + std::ssize(said) - grain + 1);
  }
}

// Texts that repeat, greedy and sampled: guessing changes nothing but the number of steps.
TEST(EngineLookup, GuessedTokensAreTheTokensOfTheModel) {
  Fixture f;
  for (NamedModel& m : engine_models()) {
    for (const bool strict : {true, false}) {
      EngineConfig config = small_engine(strict);
      config.lookup = 5;
      Engine e(*m.model, *f.tokenizer, config);
      auto plain = f.plain_engine(m, strict);
      Rng rng(17);
      const Ids word = some_ids(rng, 6);
      for (int i = 0; i < 6; ++i) {
        SCOPED_TRACE(testing::Message() << m.name << (strict ? ", strict, " : ", ") << "seed 17, text " << i);
        Ids prompt = some_ids(rng, static_cast<int64_t>(rng.below(20)));
        for (int k = 0; k < 4; ++k) prompt = joined(prompt, word);
        EngineRequest r = plain_request(prompt, 60, static_cast<uint64_t>(i));
        if (i % 2 == 0) r.sampling.temperature = 0;
        if (i % 3 == 0) r.logit_bias = {{word[0], 30.0f}, {word[1], 30.0f}};  // few tokens, so that they repeat
        if (i % 3 == 1) r.stop = {f.tokenizer->decode(Ids{word[2]})};
        const Answer with = ask(e, r).answer, without = ask(*plain, r).answer;
        expect_same(with, without, closeness(m, strict));
        const Ids turn = joined(prompt, with.ids, some_ids(rng, 3));
        expect_same(ask(e, plain_request(turn, 8)).answer, ask(*plain, plain_request(turn, 8)).answer,
                    closeness(m, strict));
      }
      e.drain(60);
      EXPECT_GT(e.stats().guesses_right, 0u);
      EXPECT_GT(e.stats().guessed, e.stats().guesses_right) << "nothing was taken back";
    }
  }
}

// An edit in the middle: RAT and attention go on from the edit, others from the ladder's last step before it.
TEST(EngineMemory, AnEditIsReadFromWhereItIs) {
  Fixture f;
  for (NamedModel& m : engine_models()) {
    SCOPED_TRACE(m.name);
    auto e = f.engine(m, Mode::within_rounding);
    Rng rng(13);
    Ids prompt = some_ids(rng, 120);
    ask(*e, plain_request(prompt, 5));
    prompt[77] = (prompt[77] + 1) % 256;
    const Told told = ask(*e, plain_request(prompt, 5));
    const bool ladder = m.name.find("rnn") != std::string::npos || m.name.find('w') != std::string::npos;
    const int64_t expected = ladder ? 64 : m.name == "attention" ? 77 : m.name == "rat 4 + rat 5" ? 60 : 76;
    EXPECT_EQ(told.reused, expected);
  }
}

}  // namespace rattan::infer::engine_property_test
