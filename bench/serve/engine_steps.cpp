// What a step of the engine costs beside the model: rattan_engine_steps MODEL [BATCH (64) [TOKENS (400) [ROUNDS (5)]]]
//
// Milliseconds a step, by turns: the model alone (bare, choosing the most probable tokens on the device), and the
// engine greedy, sampling, and sampling under a grammar; then tokens/s of one greedy sequence over a text that repeats,
// with and without guessing. One JSON document.
#include <ATen/core/grad_mode.h>
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <future>
#include <map>
#include <nlohmann/json.hpp>
#include <thread>

#include "rattan/base/error.h"
#include "rattan/infer/decode_step.h"
#include "rattan/infer/engine.h"
#include "rattan/infer/grammar/token_grammar.h"
#include "rattan/models/load.h"
#include "rattan/nn/state.h"

namespace rattan::engine_steps_file {

using Clock = std::chrono::steady_clock;
double since(Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); }

struct Bench {
  models::LanguageModel& model;
  const Tokenizer& tokenizer;
  int64_t batch, tokens;
  static constexpr int64_t kWarm = 8;  // steps that are not timed

  double bare() const {
    const at::NoGradGuard no_grad;
    nn::State state = nn::make_state(model.state_spec(), batch, tokens + 8, model.compute, at::kCPU);
    infer::DecodeStep step(model, state, batch,
                           {.limit = tokens + 8, .choose = tokenizer.vocab_size(), .draws = false});
    std::vector<infer::Slot> slots;
    for (int64_t i = 0; i < batch; ++i) slots.push_back({.row = i, .id = 300});
    step.place(slots);
    for (int64_t i = 0; i < kWarm; ++i) step.run();
    const auto begin = Clock::now();
    for (int64_t i = kWarm; i < tokens; ++i) step.run();
    return since(begin) / static_cast<double>(tokens - kWarm);
  }

  // Seconds a step of as many sequences as the batch, and the counters.
  double engine(int64_t sequences, int64_t lookup, const infer::EngineRequest& request,
                infer::EngineStats* stats) const {
    infer::EngineConfig config;
    config.max_sequences = sequences;
    config.max_context = tokens + static_cast<int64_t>(request.prompt.size()) + 8;
    config.lookup = lookup;
    infer::Engine engine(model, tokenizer, config);
    std::promise<void> done;
    Clock::time_point begin;
    double seconds = 0;
    int64_t made = 0, finished = 0;  // all on the engine's thread
    for (int64_t i = 0; i < sequences; ++i) {
      infer::EngineRequest one = request;
      one.max_tokens = tokens;
      one.seed = static_cast<uint64_t>(i);
      engine.submit(std::move(one), [&](const infer::EngineEvent& event) {
        using Kind = infer::EngineEvent::Kind;
        if (event.kind == Kind::token && ++made == kWarm * sequences) begin = Clock::now();
        if (event.kind == Kind::token && made == tokens * sequences) seconds = since(begin);
        if (event.kind == Kind::failed || (event.kind == Kind::finished && ++finished == sequences)) done.set_value();
      });
    }
    done.get_future().get();
    if (seconds == 0) fail("the engine made {} of {} tokens", made, tokens * sequences);
    if (stats) *stats = engine.stats();
    return seconds / static_cast<double>(tokens - kWarm);
  }
};

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + std::ssize(values) / 2, values.end());
  return values[values.size() / 2];
}

void run(int argc, char** argv) {
  require(argc >= 2, "usage: {} MODEL [BATCH [TOKENS [ROUNDS]]]", argv[0]);
  auto number = [&](int i, int64_t otherwise) { return argc > i ? std::stoll(argv[i]) : otherwise; };
  const models::LoadedModel loaded = models::load_language_model(argv[1]);
  require(loaded.tokenizer != nullptr, "{} has no tokenizer", argv[1]);
  const Bench bench{*loaded.model, *loaded.tokenizer, number(2, 64), number(3, 400)};
  const auto vocabulary = std::make_shared<infer::Vocabulary>(*loaded.tokenizer);
  infer::EngineRequest greedy, sampled, guided, repeating;
  greedy.prompt = sampled.prompt = guided.prompt = {300};
  greedy.sampling.temperature = repeating.sampling.temperature = 0;
  // A form without an end, so that the answer has its full length: an end token never comes.
  guided.grammar = infer::regex_grammar(vocabulary, "([a-zA-Z0-9 ,.]|\\n)*");
  guided.logit_bias[vocabulary->end()] = -100;
  for (int i = 0; i < 32; ++i)
    for (int32_t id : {300, 301, 302, 303, 304, 305, 306, 307}) repeating.prompt.push_back(id);
  std::map<std::string, std::vector<double>> seconds;
  infer::EngineStats guesses;
  for (int64_t round = 0; round < number(4, 5); ++round) {
    std::thread([&] { seconds["bare"].push_back(bench.bare()); }).join();  // a thread of its own, as the engine has
    seconds["greedy"].push_back(bench.engine(bench.batch, 0, greedy, nullptr));
    seconds["sampled"].push_back(bench.engine(bench.batch, 0, sampled, nullptr));
    seconds["grammar"].push_back(bench.engine(bench.batch, 0, guided, nullptr));
    seconds["one sequence"].push_back(bench.engine(1, 0, repeating, nullptr));
    seconds["one sequence, guessing"].push_back(bench.engine(1, 8, repeating, &guesses));
  }
  nlohmann::json out = {{"batch", bench.batch}, {"tokens", bench.tokens}};
  for (const auto& [name, values] : seconds) {
    const auto [least, most] = std::minmax_element(values.begin(), values.end());
    out["step_ms"][name] = {{"median", 1e3 * median(values)}, {"least", 1e3 * *least}, {"most", 1e3 * *most}};
  }
  const double alone = median(seconds["bare"]);
  out["overhead"] = {{"greedy", median(seconds["greedy"]) / alone - 1},
                     {"sampled", median(seconds["sampled"]) / alone - 1}};
  out["grammar_microseconds_a_token"] =
      1e6 * (median(seconds["grammar"]) - median(seconds["sampled"])) / static_cast<double>(bench.batch);
  out["guessing_gain"] = median(seconds["one sequence"]) / median(seconds["one sequence, guessing"]);
  out["guessed"] = guesses.guessed;
  out["guessed_right"] = guesses.guesses_right;
  fmt::print("{}\n", out.dump(1));
}

}  // namespace rattan::engine_steps_file

int main(int argc, char** argv) {
  try {
    rattan::engine_steps_file::run(argc, argv);
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
}
