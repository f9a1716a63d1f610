// One request for completions, from its prompts to its answer.
#pragma once
#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "rattan/serve/backend.h"
#include "rattan/serve/http.h"
#include "rattan/serve/log.h"
#include "rattan/serve/task_pool.h"
#include "rattan/serve/token_memory.h"
#include "rattan/serve/token_names.h"

namespace rattan::serve {

// What is to be made, checked and in tokens.
struct CompletionPlan {
  bool chat = false;
  std::string request_id, model;
  std::vector<infer::EngineRequest> parts;  // one a prompt; each with `best_of` choices
  std::vector<std::string> prompt_texts;    // one a part: for echo, and for the memory of chats
  int64_t n = 1, best_of = 1;
  bool echo = false, logprobs = false, stream = false, include_usage = false, token_ids = false;
  double seconds = 600;  // for the whole
  // Tokens of a stream that follow one another faster are sent together, at most so late; 0: each by itself.
  double stream_seconds = 0;
};

// What outlives requests.
struct CompletionHost {
  Backend& backend;
  const Tokenizer& tokenizer;
  TaskPool& pool;
  TokenMemory& memory;
  Log& log;
};

class Completion : public std::enable_shared_from_this<Completion> {
 public:
  Completion(CompletionHost host, CompletionPlan plan, std::shared_ptr<Reply> reply);
  // Hands the parts to the engine. ApiError if it takes them not; then nothing was answered. From then on the object
  // lives until the answer is complete.
  void start();

 private:
  struct Choice {
    std::string text;
    std::vector<int32_t> ids;
    std::vector<TokenReport> reports;
    double logprob = 0;
    int64_t offset = 0;
    const char* finish = nullptr;
    // Of a stream: what is still to be sent, and when something was.
    std::string held_text;
    std::vector<int32_t> held_ids;
    std::vector<TokenReport> held_reports;
    std::chrono::steady_clock::time_point sent{};
  };
  struct Part {
    std::vector<Choice> choices;
    std::vector<TokenReport> prompt_reports;
    int64_t reused = 0, open = 0;
  };
  static constexpr std::size_t kGone = SIZE_MAX, kLate = SIZE_MAX - 1;  // in place of a part
  struct Arrived {
    std::size_t part;
    infer::EngineEvent event;
  };

  void arrive(std::size_t part, const infer::EngineEvent& event);  // any thread
  void work_off();
  void take(std::size_t part, infer::EngineEvent& event);
  void take_prompt(std::size_t part, infer::EngineEvent& event);
  void take_token(std::size_t part, infer::EngineEvent& event);
  void send_held(std::size_t part, std::size_t choice);
  void complete();
  void fail(int status, const std::string& message);
  void give_up();  // cancels what still runs; nothing more is answered
  void remember(const Part& part, std::size_t index);

  nlohmann::json frame(const char* object) const;
  std::string stream_frame() const;
  nlohmann::json choice_json(std::size_t part, std::size_t from, int64_t index);
  nlohmann::json usage() const;
  void stream(const nlohmann::json& choice);
  void stream_event(const std::string& event);
  void note_end(const char* how);

  const CompletionHost host_;
  const CompletionPlan plan_;
  const std::shared_ptr<Reply> reply_;
  const int64_t created_;
  const std::chrono::steady_clock::time_point began_;
  std::vector<Part> parts_;
  std::size_t open_parts_;
  const std::string stream_frame_;  // what the events of a stream have in common: all behind their choices
  double first_token_seconds_ = -1;
  bool begun_ = false;

  std::mutex mutex_;  // of what follows
  std::deque<Arrived> arrived_;
  std::vector<uint64_t> requests_;
  bool working_ = true, over_ = false;  // start() counts as work
  TaskPool::Timer late_;                // holds memory of this until it is cancelled
};

}  // namespace rattan::serve
