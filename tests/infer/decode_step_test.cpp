// A step whose places live on the device makes the tokens that reading them one call at a time makes.
#include "rattan/infer/decode_step.h"

#include <ATen/Context.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/equal.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "rattan/base/error.h"
#include "rattan/infer/context.h"
#include "rattan/infer/generator.h"
#include "rattan/ops/ops.h"
#include "tests/infer/tiny_model.h"

namespace rattan::infer::decode_step_test {

constexpr int64_t vocabulary = 257;

// Every mixer, and chunks, windows and heads of more than one kind.
std::vector<NamedModel> all_models() {
  std::vector<NamedModel> out;
  auto add = [&](const char* name, const std::string& pattern, const std::string& mixers) {
    out.push_back({name, model_of(pattern, mixers)});
  };
  const std::string rat = "\n[mixers.rat]\ntype = 'rat'\nn_heads = 4\nn_groups = 2\nchunk = ";
  add("rat 4", "['rat']", rat + "4\n");
  add("rat 1", "['rat']", rat + "1\nrope = false\n");
  add("rat, window", "['rat', 'local']", rat + "5\n[mixers.local]\ntype = 'swa'\nn_heads = 4\nwindow = 6\n");
  add("attention", "['all']", "\n[mixers.all]\ntype = 'attention'\nn_heads = 4\nn_kv_heads = 2\n");
  add("rnn, attention", "['rnn', 'all']",
      "\n[mixers.rnn]\ntype = 'rnn'\n[mixers.all]\ntype = 'attention'\nn_heads = 2\n");
  return out;
}

std::vector<int32_t> prompt(int32_t n, int32_t salt) {
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < n; ++i) ids.push_back((7 * i * i + 31 * salt + 3) % 257);
  return ids;
}

void read(Context& context, int64_t row, const std::vector<int32_t>& ids) {
  const Context::Piece piece{row, ids};
  context.extend({&piece, 1});
}

// Fills state row r with prompt(lengths[r], r), without a context.
nn::State state_of(models::Model& model, const std::vector<int32_t>& lengths, int64_t capacity) {
  at::NoGradGuard no_grad;
  ops::FewRowsScope few_rows;  // as a context reads, so that the states are equal bit for bit
  nn::State state =
      nn::make_state(model.state_spec(), static_cast<int64_t>(lengths.size()), capacity, model.compute, at::kCPU);
  for (int32_t row = 0; row < static_cast<int32_t>(lengths.size()); ++row) {
    if (lengths[row] == 0) continue;
    const nn::Layout layout(1, lengths[row], {{.end = lengths[row], .from = row, .to = row}});
    nn::Call call{layout};
    model.extend({ids_tensor(prompt(lengths[row], row), at::kCPU).unsqueeze(0), {}}, state, call);
  }
  return state;
}

TEST(DecodeStep, EqualsReadingEachTokenForEveryMixerAtRaggedPositions) {
  for (auto& [name, model] : all_models()) {
    SCOPED_TRACE(name);
    ASSERT_TRUE(DecodeStep::serves(*model));
    const std::vector<int32_t> lengths = {3, 15, 8, 1};
    Context context(*model, 4, 40);
    for (int32_t row = 0; row < 4; ++row) read(context, row, prompt(lengths[row], row));
    nn::State state = state_of(*model, lengths, 40);
    DecodeStep step(*model, state, 4, {.limit = 40, .choose = vocabulary});
    const std::vector<int64_t> order = {2, 0, 3, 1};  // slots need not be in the order of rows
    std::vector<Slot> slots;
    std::vector<int32_t> ids = {5, 6, 7, 8};
    for (int i = 0; i < 4; ++i) slots.push_back({.row = order[i], .position = lengths[order[i]], .id = ids[i]});
    step.place(slots);
    for (int t = 0; t < 25; ++t) {  // row 1 reaches its capacity
      std::vector<Context::Piece> pieces;
      for (int i = 0; i < 4; ++i) pieces.push_back({order[i], {&ids[i], 1}});
      const at::Tensor expected = context.logits(context.extend(pieces));
      step.run();
      ASSERT_TRUE(at::equal(step.logits(), expected)) << "step " << t;
      const at::Tensor best = expected.argmax(-1);
      ASSERT_TRUE(at::equal(step.chosen(), best)) << "step " << t;
      for (int i = 0; i < 4; ++i) ids[i] = static_cast<int32_t>(best[i].item<int64_t>());
    }
    EXPECT_THROW(step.run(), InputError) << "row 1 is full";
  }
}

TEST(DecodeStep, IdleSlotsChangeNoOther) {
  for (auto& [name, model] : all_models()) {
    SCOPED_TRACE(name);
    nn::State state = state_of(*model, {6, 0, 9, 0}, 32), same = state_of(*model, {6, 0, 9, 0}, 32);
    DecodeStep step(*model, state, 4, {.limit = 32, .choose = vocabulary});
    DecodeStep busy(*model, same, 4, {.limit = 32, .choose = vocabulary});
    const Slot a{.row = 0, .position = 6, .id = 1}, c{.row = 2, .position = 9, .id = 2};
    step.place(std::vector<Slot>{a, {.row = 1, .idle = true}, c, {.row = 3, .idle = true}});
    busy.place(std::vector<Slot>{a, {.row = 1, .id = 9}, c, {.row = 3, .id = 200}});
    for (int t = 0; t < 12; ++t) {
      step.run(), busy.run();
      for (int64_t slot : {0, 2}) ASSERT_TRUE(at::equal(step.logits()[slot], busy.logits()[slot])) << t;
    }
    EXPECT_EQ(state.length[1].item<int64_t>(), 0);
    EXPECT_EQ(state.length[0].item<int64_t>(), 18);
    EXPECT_EQ(step.slots()[0].position, 18);
    EXPECT_EQ(step.slots()[1].position, 0);
    // An idle slot's row takes a sequence from its start, whatever was written there.
    nn::State fresh = state_of(*model, {0, 0, 0, 0}, 32);
    DecodeStep clean(*model, fresh, 4, {.limit = 32, .choose = vocabulary});
    std::vector<Slot> first(4);
    for (int64_t row = 0; row < 4; ++row) first[row] = {.row = row, .id = 40, .idle = row != 1};
    clean.place(first), step.place(first);
    for (int t = 0; t < 12; ++t) {
      clean.run(), step.run();
      ASSERT_TRUE(at::equal(step.logits()[1], clean.logits()[1])) << t;
    }
  }
}

// The first call runs as it is, the second is recorded, later ones are replayed: with new places and tokens, too.
TEST(DecodeStep, RecordedOnAGpuEqualsLaunchedFromTheHost) {
  if (!at::Context::hasCUDA()) GTEST_SKIP() << "no GPU";
  const at::Device device(at::kCUDA, 0);
  for (auto& [name, model] : all_models()) {
    SCOPED_TRACE(name);
    model->initialize(3, at::kFloat, device);
    model->compute = at::kBFloat16;
    auto empty = [&, &model = model] { return nn::make_state(model->state_spec(), 4, 40, model->compute, device); };
    nn::State recorded = empty(), launched = empty();
    DecodeStep graph(*model, recorded, 3, {.limit = 40, .choose = vocabulary});
    DecodeStep host(*model, launched, 3, {.limit = 40, .choose = vocabulary, .graph = false});
    auto both = [&](int steps) {
      for (int t = 0; t < steps; ++t) {
        graph.run(), host.run();
        ASSERT_TRUE(at::equal(graph.logits(), host.logits())) << t;
        ASSERT_TRUE(at::equal(graph.chosen(), host.chosen())) << t;
        ASSERT_TRUE(at::equal(graph.logprobs(), host.logprobs())) << t;
      }
    };
    for (DecodeStep* step : {&graph, &host})
      step->place(std::vector<Slot>{{.row = 2, .id = 5}, {.row = 0, .idle = true}, {.row = 1, .id = 9}});
    both(14);
    for (DecodeStep* step : {&graph, &host}) step->feed(std::vector<int32_t>{100, 0, 7});
    both(3);
    for (DecodeStep* step : {&graph, &host})
      step->place(std::vector<Slot>{
          {.row = 2, .position = 17, .id = 1}, {.row = 3, .id = 2}, {.row = 1, .position = 17, .id = 3}});
    both(20);
  }
}

TEST(DecodeStep, ChoosesTheLowestOfEqualsAmongTheKnownIds) {
  auto model = tiny_model();
  nn::State state = state_of(*model, {4, 4}, 16);
  // Equal rows of the embedding make equal logits.
  model->each_param([](const std::string& name, nn::Param& p) {
    if (name != "embed.weight") return;
    at::NoGradGuard no_grad;
    p.master().copy_(p.master().slice(0, 3, 4).expand_as(p.master()));
    p.changed();
  });
  DecodeStep step(*model, state, 2, {.limit = 16, .choose = 100});
  step.place(std::vector<Slot>{{.row = 0, .position = 4, .id = 3}, {.row = 1, .position = 4, .id = 9}});
  step.run();
  EXPECT_EQ(step.chosen().max().item<int64_t>(), 0);
  // Of 100 equal ones each has probability 1/100; the sums are in float64.
  EXPECT_NEAR(step.logprobs()[0].item<double>(), -std::log(100.0), 1e-6);
}

TEST(DecodeStep, RefusesWhatDoesNotFit) {
  auto model = tiny_model();
  nn::State state = state_of(*model, {4, 4}, 16);
  DecodeStep step(*model, state, 2, {.limit = 16});
  auto place = [&](const Slot& a, const Slot& b) { step.place(std::vector<Slot>{a, b}); };
  EXPECT_THROW(place({.row = 0}, {.row = 0}), InputError);
  EXPECT_THROW(place({.row = 0}, {.row = 2}), InputError);
  EXPECT_THROW(place({.row = 0, .position = 16}, {.row = 1}), InputError);
  EXPECT_THROW(step.place(std::vector<Slot>{{.row = 0}}), InputError);
  EXPECT_THROW(step.feed(std::vector<int32_t>{1}), InputError);
  // The state has room for less than the step would go to.
  DecodeStep longer(*model, state, 2, {.limit = 64});
  longer.place(std::vector<Slot>{{.row = 0}, {.row = 1}});
  EXPECT_THROW(longer.run(), InputError);
}

TEST(DecodeStep, TakesNoMixerThatKnowsOnlySegmentsAndNoFloat64) {
  auto model = tiny_model();
  model->compute = at::kDouble;
  EXPECT_FALSE(DecodeStep::serves(*model));
  const nn::Layout layout = nn::Layout::step({ids_tensor(std::vector<int32_t>{0}, at::kCPU).to(at::kInt),
                                              ids_tensor(std::vector<int32_t>{0}, at::kCPU).to(at::kInt), 1, 8});
  EXPECT_THROW(layout.segments(), Error);
  EXPECT_THROW(layout.mask(), Error);
  EXPECT_FALSE(layout.has_padding());
  EXPECT_FALSE(layout.is_uniform());
}

TEST(ContextSteps, EqualExtendThroughGrowthAndWhenRowsComeAndGo) {
  for (auto& [name, model] : all_models()) {
    SCOPED_TRACE(name);
    Context by_step(*model, 3, 8), by_extend(*model, 3, 8);
    for (Context* c : {&by_step, &by_extend})
      for (int32_t row = 0; row < 3; ++row) read(*c, row, prompt(2 + 3 * row, row));
    auto both = [&](const std::vector<int64_t>& rows, int32_t id, int64_t greedy) {
      std::vector<Context::Piece> pieces;
      for (int64_t row : rows) pieces.push_back({row, {&id, 1}});
      const Context::Next next = by_step.step(pieces, greedy);
      const at::Tensor expected = by_extend.logits(by_extend.extend(pieces));
      EXPECT_TRUE(at::equal(next.logits, expected)) << "token " << id;
      EXPECT_EQ(next.ids.defined(), greedy > 0);
    };
    for (int32_t id = 0; id < 30; ++id) both({0, 1, 2}, id, id % 2 ? vocabulary : 0);  // past 8, 16 and 32 tokens
    for (Context* c : {&by_step, &by_extend}) read(*c, 1, prompt(5, 9));               // a piece between the steps
    for (int32_t id = 30; id < 36; ++id) both({2, 1}, id, vocabulary);
    for (Context* c : {&by_step, &by_extend}) c->select({1, 1, 2, 0});
    for (int32_t id = 36; id < 42; ++id) both({0, 1, 3}, id, 0);
    for (int64_t row = 0; row < 4; ++row) EXPECT_EQ(by_step.length(row), by_extend.length(row));
  }
}

// strict reads tokens by extend, one sequence at a time; without it, steps read them.
TEST(GeneratorSteps, GreedyTextIsThatOfExtend) {
  auto tokenizer = bytes_tokenizer();
  for (auto& [name, model] : all_models()) {
    SCOPED_TRACE(name);
    std::vector<Request> requests;
    for (const char* text : {"abc", "a longer one, of more than one chunk", "x"}) {
      Request r;
      r.prompt = tokenizer->encode(text);
      r.max_tokens = 10 + 7 * static_cast<int64_t>(requests.size());  // they end one after the other
      r.sampling.temperature = 0;
      requests.push_back(r);
    }
    const auto stepped = Generator(*model, *tokenizer).run(requests);
    GeneratorConfig config;
    config.strict = true;
    const auto strict = Generator(*model, *tokenizer, config).run(requests);
    for (std::size_t i = 0; i < requests.size(); ++i) {
      EXPECT_EQ(stepped[i].ids, strict[i].ids);
      // fp32 sums in another order.
      for (std::size_t j = 0; j < stepped[i].ids.size(); ++j)
        EXPECT_NEAR(stepped[i].logprobs[j], strict[i].logprobs[j], 1e-4);
    }
  }
}

TEST(GeneratorSteps, DamagedWeightsAreReported) {
  auto model = tiny_model();
  auto tokenizer = bytes_tokenizer();
  model->each_param([](const std::string& name, nn::Param& p) {
    if (name != "norm.weight") return;
    at::NoGradGuard no_grad;
    p.master().fill_(std::nan(""));
    p.changed();
  });
  Request r;
  r.prompt = {65};
  r.sampling.temperature = 0;
  EXPECT_THROW(Generator(*model, *tokenizer).run({r}), Error);
}

}  // namespace rattan::infer::decode_step_test
