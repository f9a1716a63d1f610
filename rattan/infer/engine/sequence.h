// A request in the engine and its choices.
#pragma once
#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <vector>

#include "rattan/infer/engine.h"
#include "rattan/infer/text_stream.h"

namespace rattan::infer {

using Clock = std::chrono::steady_clock;

struct Live {
  uint64_t id = 0;
  EngineRequest request;
  Engine::Listener listener;
  // Instead of making tokens: told the row once the prompt but its last token was read.
  std::function<void(int64_t row)> visit;

  std::atomic<bool> cancelled = false;
  Clock::time_point submitted, started;
  std::vector<Clock::time_point> told;  // the last token of each choice
  bool admitted = false, told_prompt = false;
  int64_t unfinished = 0;  // choices
  int64_t reused = 0;
  std::vector<std::vector<TokenChoice>> prompt_top;
};

// One choice. Its newest token is read by the step that makes the next one, so what is known of a sequence is the state
// of all tokens but the last; of all, while the token after that is in flight.
struct Sequence {
  Sequence(std::shared_ptr<Live> live_in, int64_t choice_in, const Tokenizer& tokenizer)
      : live(std::move(live_in)),
        choice(choice_in),
        ids(live->request.prompt),
        text(tokenizer, live->request.stop, true),
        grammar(live->request.grammar ? live->request.grammar->start() : 0) {}

  const EngineRequest& request() const { return live->request; }
  int64_t size() const { return static_cast<int64_t>(ids.size()); }
  int64_t prompt() const { return static_cast<int64_t>(request().prompt.size()); }
  int64_t made() const { return size() - prompt(); }
  int64_t coming() const { return size() + in_flight; }  // known tokens and those on their way
  int64_t target() const { return size() - 1; }          // tokens to read before a step
  bool prefilling() const { return read < target(); }
  int64_t longest() const { return prompt() + std::max<int64_t>(request().max_tokens, 1); }

  std::shared_ptr<Live> live;
  int64_t choice;
  std::vector<int32_t> ids;  // prompt and what was made
  TextStream text;
  int64_t grammar;  // state
  int64_t row = -1, read = 0;
  int64_t in_flight = 0;   // tokens that the device has chosen and the host does not know yet
  uint64_t admission = 0;  // ascending
  bool preempted = false, leads = false;
};

}  // namespace rattan::infer
