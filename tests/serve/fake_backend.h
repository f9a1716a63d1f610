// An engine that makes no sense of what it reads: the answer repeats the prompt's tokens from the start on. And a
// client without a connection.
#pragma once
#include <algorithm>
#include <condition_variable>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "rattan/base/error.h"
#include "rattan/base/files.h"
#include "rattan/serve/backend.h"
#include "rattan/serve/http.h"

namespace rattan::serve {

class FakeBackend : public Backend {
 public:
  explicit FakeBackend(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}
  ~FakeBackend() override {
    for (std::thread& thread : threads_) thread.join();
  }

  uint64_t submit(infer::EngineRequest request, infer::Engine::Listener listener) override {
    const std::lock_guard lock(mutex_);
    if (busy) throw infer::Busy("full");
    const uint64_t id = ++last_;
    requests.push_back(request);
    alive_[id] = true;
    threads_.emplace_back(
        [this, id, request = std::move(request), listener = std::move(listener)] { run(id, request, listener); });
    return id;
  }
  void cancel(uint64_t request) override {
    const std::lock_guard lock(mutex_);
    alive_[request] = false;
    ++cancelled;
    changed_.notify_all();
  }
  infer::EngineStats stats() const override {
    infer::EngineStats s;
    s.slots = 8;
    s.cache_misses["no \"prefix\""] = 2;
    s.first_token_seconds = {{0.1, 1}, {3, 2, 1}, 2.5};
    return s;
  }
  void save(const std::vector<int32_t>& tokens, const std::string& path) override {
    write_file(path, tokenizer_.decode(tokens));
  }
  std::vector<int32_t> restore(const std::string& path) override {
    const std::string text = read_file(path);
    require(text != "damaged", "{}: damaged", path);
    return tokenizer_.encode(text);
  }
  std::shared_ptr<const infer::Grammar> grammar(const Shape&) override { return nullptr; }
  int64_t state_bytes(int64_t tokens) const override { return tokens * 10; }

  // Until released, requests get their prompt event alone.
  void hold() { held_ = true; }
  void release() {
    const std::lock_guard lock(mutex_);
    held_ = false;
    changed_.notify_all();
  }
  // Waits until `count` requests were cancelled; false after two seconds.
  bool wait_cancelled(int count) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(2), [&] { return cancelled >= count; });
  }

  bool busy = false, failing = false;
  std::vector<infer::EngineRequest> requests;
  int cancelled = 0;

 private:
  bool alive(uint64_t id) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !held_ || !alive_[id]; });
    return alive_[id];
  }
  std::vector<infer::TokenChoice> top(int32_t id, int64_t count) const {
    std::vector<infer::TokenChoice> out;
    for (int64_t i = 0; i < count; ++i) out.push_back({static_cast<int32_t>((id + i) % 256), -0.5 * double(i + 1)});
    return out;
  }
  void run(uint64_t id, const infer::EngineRequest& request, const infer::Engine::Listener& listener) {
    using Kind = infer::EngineEvent::Kind;
    infer::EngineEvent prompt;
    prompt.kind = failing ? Kind::failed : Kind::prompt;
    prompt.error = failing ? "a secret of /srv/model" : "";
    prompt.reused = static_cast<int64_t>(request.prompt.size()) / 2;
    if (request.prompt_logprobs) {
      for (std::size_t i = 1; i < request.prompt.size(); ++i) {
        prompt.prompt_top.push_back({{request.prompt[i], -0.5}});
        for (const auto& other : top(request.prompt[i], request.top_logprobs))
          prompt.prompt_top.back().push_back(other);
      }
    }
    listener(prompt);
    if (failing) return;
    for (int64_t choice = 0; choice < request.choices; ++choice) {
      std::string text;
      infer::EngineEvent finished;
      finished.kind = Kind::finished;
      finished.choice = choice;
      for (int64_t i = 0; i < request.max_tokens; ++i) {
        if (!alive(id)) return;
        infer::EngineEvent event;
        event.choice = choice;
        event.token = {request.prompt[static_cast<std::size_t>(i) % request.prompt.size()], -0.5 - double(choice)};
        event.text = tokenizer_.decode_piece(event.token.id);
        event.top = top(event.token.id, request.top_logprobs);
        text += event.text;
        const bool stops = std::any_of(request.stop.begin(), request.stop.end(),
                                       [&](const std::string& stop) { return text.ends_with(stop); });
        const bool ends = std::count(request.end_tokens.begin(), request.end_tokens.end(), event.token.id) > 0;
        if (stops) event.text.clear(), finished.finish = infer::Finish::stop;
        if (ends) finished.finish = infer::Finish::end_of_document;
        listener(event);
        if (stops || ends) break;
      }
      listener(finished);
    }
  }

  const Tokenizer& tokenizer_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<uint64_t, bool> alive_;
  std::vector<std::thread> threads_;
  uint64_t last_ = 0;
  std::atomic<bool> held_{false};
};

class FakeReply : public Reply {
 public:
  void send(HttpResponse r) override {
    finish([&] { response = std::move(r); });
  }
  void begin(HttpResponse head) override {
    const std::lock_guard lock(mutex_);
    response = std::move(head);
  }
  bool write(std::string bytes) override {
    const std::lock_guard lock(mutex_);
    response.body += bytes;
    changed_.notify_all();
    return !left_;
  }
  void end() override {
    finish([] {});
  }
  void on_gone(std::function<void()> gone) override {
    const std::lock_guard lock(mutex_);
    if (!done_) gone_ = std::move(gone);
  }

  void leave() {  // the client goes
    std::function<void()> gone;
    {
      const std::lock_guard lock(mutex_);
      left_ = true;
      gone.swap(gone_);
    }
    if (gone) gone();
  }
  bool wait() {  // for the whole answer; false after five seconds
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(5), [&] { return done_; });
  }
  bool done() {
    const std::lock_guard lock(mutex_);
    return done_;
  }
  nlohmann::json json() const { return nlohmann::json::parse(response.body); }
  // The data of a stream's events, the last of which must be [DONE].
  std::vector<nlohmann::json> events() const {
    std::vector<nlohmann::json> out;
    std::string rest = response.body;
    for (std::size_t cut; (cut = rest.find("\n\n")) != std::string::npos; rest.erase(0, cut + 2)) {
      const std::string line = rest.substr(0, cut);
      if (line == "data: [DONE]") return out;
      out.push_back(nlohmann::json::parse(line.substr(6)));
    }
    out.push_back("the stream has no end");
    return out;
  }

  HttpResponse response;

 private:
  template <class F>
  void finish(F change) {
    std::function<void()> dropped;
    const std::lock_guard lock(mutex_);
    change();
    done_ = true;
    dropped.swap(gone_);
    changed_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::function<void()> gone_;
  bool done_ = false, left_ = false;
};

}  // namespace rattan::serve
