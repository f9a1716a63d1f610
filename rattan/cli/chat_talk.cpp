#include "rattan/cli/chat_talk.h"

#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>

#include "rattan/base/error.h"
#include "rattan/data/utf8.h"
#include "rattan/infer/stop.h"
#include "rattan/serve/token_memory.h"

namespace rattan::cli {
namespace chat_talk_file {

using infer::EngineEvent;
using Clock = std::chrono::steady_clock;

double seconds(Clock::duration elapsed) { return std::chrono::duration<double>(elapsed).count(); }

void require_utf8(const std::string& text) {
  std::string_view rest = text;
  while (!rest.empty()) {
    const std::size_t n = utf8_length(rest);
    require(n > 0, "the message is not UTF-8 (byte {}); it was not sent", text.size() - rest.size() + 1);
    rest.remove_prefix(n);
  }
}

// From the engine's thread to the one that shows the answer.
class Events {
 public:
  void push(const EngineEvent& event) {
    {
      const std::lock_guard lock(mutex_);
      queue_.push_back(event);
    }
    arrived_.notify_one();
  }
  // What has come, or nothing after a moment, so that whoever waits can look at other things.
  std::deque<EngineEvent> wait() {
    std::unique_lock lock(mutex_);
    arrived_.wait_for(lock, std::chrono::milliseconds(20), [this] { return !queue_.empty(); });
    return std::exchange(queue_, {});
  }

 private:
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<EngineEvent> queue_;
};

// A request that does not outlive its object.
class Submitted {
 public:
  Submitted(infer::Engine& engine, infer::EngineRequest request, infer::Engine::Listener listener)
      : engine_(engine), id_(engine.submit(std::move(request), std::move(listener))) {}
  ~Submitted() { cancel(); }
  Submitted(const Submitted&) = delete;
  Submitted& operator=(const Submitted&) = delete;
  void cancel() const { engine_.cancel(id_); }  // nothing where it has ended

 private:
  infer::Engine& engine_;
  const uint64_t id_;
};

}  // namespace chat_talk_file

Talk::Talk(infer::Engine& engine, const Tokenizer& tokenizer, serve::ChatTemplate chat, TalkSettings settings)
    : engine_(engine), tokenizer_(tokenizer), chat_(std::move(chat)), settings_(std::move(settings)) {
  require(settings_.max_tokens >= 1, "the number of tokens to make must be at least 1, got {}", settings_.max_tokens);
  chat_talk_file::require_utf8(settings_.system);
  infer::StopMatcher refuses_empty_ones(settings_.stop);
}

// Piece by piece, as the server does (serve/token_memory.h), so that both make the same tokens of a conversation.
void Talk::encode(std::vector<int32_t>& tokens, const std::vector<std::string>& pieces) const {
  const std::unique_ptr<Encoder> encoder = tokenizer_.encoder();
  for (const std::string& piece : pieces)
    if (!piece.empty()) tokens.empty() ? encoder->encode(piece, tokens) : encoder->encode_more(piece, tokens);
}

std::vector<int32_t> Talk::prompt_for(const std::string& message) const {
  chat_talk_file::require_utf8(message);
  std::vector<serve::Message> messages;
  if (exchanges_.empty() && !settings_.system.empty()) messages.push_back({"system", settings_.system});
  messages.push_back({"user", message});
  std::vector<std::string> pieces = chat_.pieces(messages);
  if (!exchanges_.empty()) pieces.front() = chat_.assistant.after;
  std::vector<int32_t> prompt = tokens_;
  encode(prompt, pieces);
  require(!prompt.empty(), "neither the message nor the chat template around it has a token");
  const int64_t room = engine_.config().max_context;
  require(std::ssize(prompt) < room,
          "with this message the conversation has {} tokens, and there is room for {}: take back exchanges (/undo), "
          "start anew (/new), or start the program with a longer --context",
          prompt.size(), room);
  return prompt;
}

Turn Talk::answer(std::vector<int32_t> prompt, const Show& show, const Interrupted& interrupted, Answer& made) {
  using namespace chat_talk_file;
  Turn turn;
  turn.prompt = std::ssize(prompt);
  infer::EngineRequest request;
  const int64_t room = engine_.config().max_context - turn.prompt;
  request.max_tokens = std::min(settings_.max_tokens, room);
  request.prompt = std::move(prompt);
  request.sampling = settings_.sampling;
  request.seed = settings_.seed;
  request.stop = chat_.stop;
  request.stop.insert(request.stop.end(), settings_.stop.begin(), settings_.stop.end());
  if (tokenizer_.eos() >= 0) request.end_tokens = {tokenizer_.eos()};

  // Shared, since the engine may still be about to return from telling the last event.
  const auto events = std::make_shared<Events>();
  const Clock::time_point began = Clock::now();
  Clock::time_point first = began, last = began;
  const Submitted submitted(engine_, std::move(request), [events](const EngineEvent& event) { events->push(event); });
  for (bool running = true; running;) {
    if (interrupted()) {
      submitted.cancel();
      turn.interrupted = true;
      running = false;
    }
    for (const EngineEvent& event : events->wait()) {
      if (event.kind == EngineEvent::Kind::failed) fail("the answer failed: {}", event.error);
      if (event.kind == EngineEvent::Kind::prompt) turn.reused = event.reused;
      if (event.kind == EngineEvent::Kind::finished) turn.finish = event.finish, running = false;
      if (event.kind != EngineEvent::Kind::token) continue;
      last = Clock::now();
      if (made.ids.empty()) first = last;
      made.ids.push_back(event.token.id);
      made.text += event.text;
      if (!event.text.empty()) show(event.text);
    }
  }
  turn.made = std::ssize(made.ids);
  turn.first_seconds = seconds(first - began);
  turn.answer_seconds = seconds(last - first);
  turn.full = !turn.interrupted && turn.finish == infer::Finish::length && turn.made == room;
  return turn;
}

Turn Talk::say(const std::string& message, const Show& show, const Interrupted& interrupted) {
  std::vector<int32_t> tokens = prompt_for(message);
  Answer made;
  const Turn turn = answer(tokens, show, interrupted, made);
  if (turn.interrupted && made.text.empty()) return turn;
  if (const auto shown = serve::leading_tokens(made.ids, made.text, tokenizer_)) {
    tokens.insert(tokens.end(), shown->begin(), shown->end());
  } else {
    encode(tokens, {made.text});  // the text ends within a token, where a stop string began
  }
  exchanges_.push_back({message, std::move(made.text), tokens.size()});
  tokens_ = std::move(tokens);
  return turn;
}

Turn Talk::again(const Show& show, const Interrupted& interrupted) {
  require(!exchanges_.empty(), "there is no answer yet");
  require(settings_.sampling.temperature > 0, "at temperature 0 the answer would be the same");
  const std::vector<int32_t> tokens = tokens_;
  const Exchange last = exchanges_.back();
  const auto restore = [&] {
    exchanges_.push_back(last);
    tokens_ = tokens;
    --settings_.seed;
  };
  undo();
  ++settings_.seed;
  const std::size_t before = exchanges_.size();
  try {
    const Turn turn = say(last.message, show, interrupted);
    if (exchanges_.size() == before) restore();
    return turn;
  } catch (...) {
    restore();
    throw;
  }
}

std::optional<std::string> Talk::undo() {
  if (exchanges_.empty()) return std::nullopt;
  std::string message = std::move(exchanges_.back().message);
  exchanges_.pop_back();
  tokens_.resize(exchanges_.empty() ? 0 : exchanges_.back().end);
  return message;
}

void Talk::restart() {
  exchanges_.clear();
  tokens_.clear();
}

}  // namespace rattan::cli
