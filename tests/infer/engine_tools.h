// Models of every mixer and a listener that gathers answers, for the tests of the engine.
#pragma once
#include <ATen/Parallel.h>

#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "rattan/base/random.h"
#include "rattan/infer/engine.h"
#include "tests/infer/tiny_model.h"

namespace rattan::infer {

// Every registered mixer alone, hybrids whose parts resume at different places, and states in 8 bits.
inline std::vector<NamedModel> engine_models() {
  const std::string rat = "\n[mixers.rat]\ntype = 'rat'\nn_heads = 4\nn_groups = 2\nchunk = 4\n";
  const std::string rat5 = "\n[mixers.five]\ntype = 'rat'\nn_heads = 4\nn_groups = 2\nchunk = 5\n";
  const std::string all = "\n[mixers.all]\ntype = 'attention'\nn_heads = 4\nn_kv_heads = 2\n";
  const std::string local = "\n[mixers.local]\ntype = 'swa'\nn_heads = 4\nwindow = 6\n";
  const std::string rnn = "\n[mixers.rnn]\ntype = 'rnn'\n";
  std::vector<NamedModel> out;
  out.push_back({"rat", model_of("['rat']", rat)});
  out.push_back({"attention", model_of("['all']", all)});
  out.push_back({"swa", model_of("['local']", local)});
  out.push_back({"rnn", model_of("['rnn']", rnn)});
  out.push_back({"rat + window", model_of("['rat', 'local']", rat + local)});
  out.push_back({"rat 4 + rat 5", model_of("['rat', 'five']", rat + rat5)});
  out.push_back({"rat + rnn", model_of("['rat', 'rnn']", rat + rnn)});
  out.push_back({"rat + attention", model_of("['rat', 'all']", rat + all)});
  out.push_back({"rat, 8 bits", model_of("['rat']", rat)});
  out.back().model->cache_in_8_bits = true;
  out.push_back({"rat + window + attention, 8 bits", model_of("['rat', 'local', 'all']", rat + local + all)});
  out.back().model->cache_in_8_bits = true;
  return out;
}

inline std::vector<int32_t> some_ids(Rng& rng, int64_t n) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < n; ++i) ids.push_back(static_cast<int32_t>(rng.below(256)));
  return ids;
}

struct Answer {
  std::vector<int32_t> ids;
  std::vector<double> logprobs;
  std::vector<std::vector<TokenChoice>> top;
  std::string text;
  Finish finish = Finish::length;
  bool done = false;
  bool operator==(const Answer& o) const { return ids == o.ids && logprobs == o.logprobs && text == o.text; }
};

// What was told about one request.
class Answers {
 public:
  explicit Answers(int64_t choices = 1) : answers_(static_cast<std::size_t>(choices)), left_(choices) {}

  Engine::Listener listener() {
    return [this](const EngineEvent& e) { take(e); };
  }
  // Of all choices; fails the wait after a minute.
  std::vector<Answer>& wait() {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, std::chrono::seconds(60), [&] { return left_ == 0 || !error.empty(); }))
      throw std::runtime_error("no answer within a minute");
    return answers_;
  }
  int64_t tokens() {
    std::lock_guard lock(mutex_);
    int64_t n = 0;
    for (const Answer& a : answers_) n += std::ssize(a.ids);
    return n;
  }

  int64_t reused = -1, events = 0;
  std::string error;
  std::vector<std::vector<TokenChoice>> prompt_top;

 private:
  void take(const EngineEvent& e) {
    std::lock_guard lock(mutex_);
    ++events;
    Answer& a = answers_[static_cast<std::size_t>(e.choice)];
    switch (e.kind) {
      case EngineEvent::Kind::prompt:
        reused = e.reused;
        prompt_top = e.prompt_top;
        break;
      case EngineEvent::Kind::token:
        a.ids.push_back(e.token.id);
        a.logprobs.push_back(e.token.logprob);
        a.top.push_back(e.top);
        a.text += e.text;
        break;
      case EngineEvent::Kind::finished:
        a.finish = e.finish;
        a.done = true;
        --left_;
        break;
      case EngineEvent::Kind::failed:
        error = e.error;
        break;
    }
    changed_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Answer> answers_;
  int64_t left_;
};

inline EngineRequest plain_request(std::vector<int32_t> prompt, int64_t max_tokens, uint64_t seed = 1) {
  EngineRequest r;
  r.prompt = std::move(prompt);
  r.max_tokens = max_tokens;
  r.seed = seed;
  return r;
}

struct Told {
  Answer answer;
  int64_t reused = 0;
};

inline Told ask(Engine& engine, EngineRequest request) {
  Answers answers(request.choices);
  engine.submit(std::move(request), answers.listener());
  Told told{answers.wait().front(), answers.reused};
  if (!answers.error.empty()) throw std::runtime_error(answers.error);
  return told;
}

inline EngineConfig small_engine(bool strict, int64_t sequences = 8) {
  at::set_num_threads(1);  // models this small gain nothing from more, and several engines live at once
  EngineConfig config;
  config.max_sequences = sequences;
  config.max_context = 192;
  config.prefill_tokens = 24;
  config.snapshot_every = 16;
  config.strict = strict;
  return config;
}

}  // namespace rattan::infer
