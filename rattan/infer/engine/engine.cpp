#include "rattan/infer/engine.h"

#include <algorithm>
#include <cmath>
#include <future>
#include <limits>
#include <mutex>
#include <utility>

#include "rattan/base/error.h"
#include "rattan/infer/engine/fingerprint.h"
#include "rattan/infer/engine/session.h"
#include "rattan/infer/engine/worker.h"
#include "rattan/infer/score.h"

namespace rattan::infer {
namespace engine_file {

EngineConfig checked(EngineConfig c, models::Model& model) {
  require(c.max_sequences >= 1 && c.max_context >= 2, "an engine needs at least 1 sequence of at least 2 tokens");
  require(c.max_waiting >= 1 && c.snapshot_every >= 1 && c.prefill_tokens >= 0 && c.lookup >= 0 && c.memory >= 0,
          "max_waiting and snapshot_every must be at least 1, prefill_tokens, lookup and memory at least 0");
  if (c.prefill_tokens == 0) c.prefill_tokens = device_of(model).is_cuda() ? 4096 : 512;
  const int64_t rows = c.max_sequences + Reader::spare_rows(device_of(model));
  require(c.max_context <= std::numeric_limits<int32_t>::max() / rows,
          "{} sequences of {} tokens are more places than can be numbered", c.max_sequences, c.max_context);
  const int64_t one = model.state_spec().bytes(c.max_context, model.compute);
  const int64_t spare = Reader::spare_rows(device_of(model));
  if (c.memory == 0) c.memory = (2 * c.max_sequences + spare) * one;
  const int64_t least = (1 + spare) * one;
  require(c.memory >= least,
          "the memory for states, {} bytes, does not hold one sequence of {} tokens, which takes {}; give more or take "
          "a shorter context",
          c.memory, c.max_context, least);
  return c;
}

void check(const EngineRequest& r, const EngineConfig& config, const Tokenizer& tokenizer) {
  require(!r.prompt.empty(), "the prompt is empty");
  check_ids(r.prompt, tokenizer.vocab_size());
  require(r.max_tokens >= 0, "the number of tokens to make must be at least 0, got {}", r.max_tokens);
  const auto prompt = static_cast<int64_t>(r.prompt.size());
  require(prompt <= config.max_context && r.max_tokens <= config.max_context - prompt,
          "a prompt of {} tokens and {} more do not fit the context of {}", prompt, r.max_tokens, config.max_context);
  require(r.choices >= 1 && r.choices <= 1024, "the number of choices must be 1 to 1024, got {}", r.choices);
  require(r.choices == 1 || r.max_tokens > 0, "several choices need at least 1 token to make");
  require(r.top_logprobs >= -1 && r.top_logprobs <= tokenizer.vocab_size(), "top_logprobs must be -1 to {}, got {}",
          tokenizer.vocab_size(), r.top_logprobs);
  r.sampling.validate();
  for (const auto& [id, bias] : r.logit_bias) {
    require(id >= 0 && id < tokenizer.vocab_size(), "logit bias for token {}, which is not in the vocabulary", id);
    require(std::isfinite(bias), "the logit bias of token {} must be finite", id);
  }
  StopMatcher stops(r.stop);  // refuses empty ones
}

}  // namespace engine_file

struct Engine::Impl {
  Impl(models::Model& model, const Tokenizer& tokenizer, const EngineConfig& config)
      : worker(model, tokenizer, config) {}
  const std::string& model_fingerprint() {
    std::call_once(once, [this] { fingerprint = infer::fingerprint(worker.model()); });
    return fingerprint;
  }

  Worker worker;

 private:
  std::once_flag once;
  std::string fingerprint;
};

Engine::Engine(models::Model& model, const Tokenizer& tokenizer, EngineConfig config)
    : impl_(std::make_unique<Impl>(model, tokenizer, engine_file::checked(std::move(config), model))) {}

Engine::~Engine() = default;

uint64_t Engine::submit(EngineRequest request, Listener listener) {
  engine_file::check(request, config(), impl_->worker.tokenizer());
  auto live = std::make_shared<Live>();
  live->request = std::move(request);
  live->listener = std::move(listener);
  return impl_->worker.submit(std::move(live), true);
}

void Engine::cancel(uint64_t request) { impl_->worker.cancel(request); }
void Engine::drain(double seconds) { impl_->worker.drain(seconds); }
EngineStats Engine::stats() const { return impl_->worker.stats(); }
const EngineConfig& Engine::config() const { return impl_->worker.config(); }

void Engine::save(const std::vector<int32_t>& tokens, const std::string& path, const Notes& notes) {
  auto live = std::make_shared<Live>();
  live->request.prompt = tokens;
  live->request.max_tokens = 0;
  engine_file::check(live->request, config(), impl_->worker.tokenizer());
  require(tokens.size() >= 2, "a conversation to save has at least 2 tokens");
  Worker& worker = impl_->worker;
  Session session{tokens, {}, notes};
  std::promise<void> read;
  live->visit = [&](int64_t row) { session.state = state_of(worker.store(), row, std::ssize(tokens) - 1); };
  live->listener = [&](const EngineEvent& event) {
    if (event.kind == EngineEvent::Kind::finished) read.set_value();
    if (event.kind == EngineEvent::Kind::failed) read.set_exception(std::make_exception_ptr(Error(event.error)));
  };
  worker.submit(live, true);
  read.get_future().get();
  write_session(path, session, worker.store(), impl_->model_fingerprint(), worker.tokenizer());
}

std::vector<int32_t> Engine::restore(const std::string& path, Notes* notes) {
  Worker& worker = impl_->worker;
  require(config().prefix_cache, "sessions are restored into the prefix cache, which is switched off");
  Session session = read_session(path, worker.store(), impl_->model_fingerprint(), worker.tokenizer());
  require(std::ssize(session.tokens) <= config().max_context,
          "{}: the conversation has {} tokens, the engine has room for {}", path, session.tokens.size(),
          config().max_context);
  worker.between_steps([&](Scheduler& scheduler) {
    const auto known = std::span(session.tokens).first(session.tokens.size() - 1);
    if (!scheduler.cache().insert(known, parts_of(worker.store(), session), true))
      throw Busy("there is no memory for the conversation; try again when fewer sequences run");
  });
  if (notes) *notes = session.notes;
  return session.tokens;
}

}  // namespace rattan::infer
