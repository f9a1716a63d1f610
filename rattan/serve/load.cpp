#include "rattan/serve/load.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

#include "rattan/base/error.h"
#include "rattan/base/random.h"
#include "rattan/serve/load_client.h"

namespace rattan::serve {
namespace load_file {

using Clock = std::chrono::steady_clock;
using nlohmann::json;

double since(Clock::time_point from) { return std::chrono::duration<double>(Clock::now() - from).count(); }

class Load {
 public:
  explicit Load(const LoadConfig& config) : config_(config), address_(ServerAddress::of_url(config.url)) {
    const ClientAnswer info = ask(address_, "/tokenizer_info", config.key, "", 30);
    if (info.status != 200)
      fail("{} does not answer as a server of ours does ({}); start one with `rattan serve`", config.url,
           info.problem.empty() ? fmt::format("status {}", info.status) : info.problem);
    const json document = json::parse(info.body, nullptr, false);
    vocabulary_ = document.is_object() ? document.value("vocab_size", int64_t{0}) : 0;
    if (vocabulary_ < 1) fail("{} does not say how large its vocabulary is", config.url);
    Rng rng(config.seed, 0);
    shared_ = tokens(rng, config.shared_tokens);
    double at = 0;
    for (int64_t i = 0; i < config.conversations; ++i) {
      arrivals_.push_back(at);
      if (config.rate > 0) at -= std::log(1 - rng.uniform()) / config.rate;
    }
  }

  LoadReport run() {
    start_ = Clock::now();
    std::vector<std::thread> threads;
    for (int64_t i = 0; i < std::min(config_.concurrency, config_.conversations); ++i)
      threads.emplace_back([this] { work(); });
    for (std::thread& thread : threads) thread.join();
    report_.seconds = since(start_);
    report_.first_token = percentiles(std::move(first_token_));
    report_.later_turns_first_token = percentiles(std::move(later_));
    report_.token = percentiles(std::move(token_));
    report_.request = percentiles(std::move(request_));
    return report_;
  }

 private:
  std::vector<int32_t> tokens(Rng& rng, int64_t count) const {
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < count; ++i)
      ids.push_back(static_cast<int32_t>(rng.below(static_cast<uint64_t>(vocabulary_))));
    return ids;
  }

  void work() {
    for (std::size_t i; (i = next_++) < arrivals_.size();) {
      auto due = Clock::now();
      if (config_.rate > 0) {
        due = start_ + std::chrono::microseconds(static_cast<int64_t>(arrivals_[i] * 1e6));
        std::this_thread::sleep_until(due);
      }
      converse(i, due);
    }
  }

  void converse(std::size_t number, Clock::time_point due) {
    Rng rng(config_.seed, number + 1);
    std::vector<int32_t> said = shared_;
    for (int64_t turn = 0; turn < config_.turns; ++turn) {
      const std::vector<int32_t> more = tokens(rng, turn == 0 ? config_.prompt_tokens : config_.turn_tokens);
      said.insert(said.end(), more.begin(), more.end());
      const bool leaves = rng.uniform() < config_.leave;
      if (!exchange(said, turn, due, leaves)) return;
      if (config_.think_seconds > 0) std::this_thread::sleep_for(std::chrono::duration<double>(config_.think_seconds));
      due = Clock::now();
    }
  }

  // One turn; the answer's tokens are appended to `said`. False if the conversation ends here.
  bool exchange(std::vector<int32_t>& said, int64_t turn, Clock::time_point due, bool leaves) {
    json body = {{"prompt", said},
                 {"max_tokens", config_.answer_tokens},
                 {"temperature", config_.temperature},
                 {"seed", config_.seed},
                 {"ignore_eos", true},
                 {"stream", config_.stream},
                 {"return_token_ids", true}};
    if (config_.stream) body["stream_options"] = {{"include_usage", true}};
    const auto prompt = static_cast<int64_t>(said.size());
    std::vector<double> gaps;
    double first = -1, last = 0;
    int64_t made = 0, reused = 0;
    std::string refused;
    auto take = [&](const std::string& text) {
      const json event = json::parse(text, nullptr, false);
      if (!event.is_object() || event.contains("error")) return refused = "an error in the answer", false;
      if (event.value("usage", json()).is_object())
        reused = event["usage"].value("/prompt_tokens_details/cached_tokens"_json_pointer, int64_t{0});
      for (const json& choice : event.value("choices", json::array())) {
        for (const json& id : choice.value("token_ids", json::array())) {
          const double now = since(due);
          first < 0 ? first = now : (gaps.push_back(now - last), 0.0);
          last = now;
          ++made;
          said.push_back(id.get<int32_t>());
        }
      }
      return !leaves || made < std::max<int64_t>(1, config_.answer_tokens / 2);
    };
    const ClientAnswer answer =
        ask(address_, "/v1/completions", config_.key, body.dump(), config_.timeout_seconds, take);
    if (!config_.stream && answer.status == 200) take(answer.body);
    const double whole = since(due);
    const std::lock_guard lock(mutex_);
    ++report_.requests;
    report_.answer_tokens += made;
    if (leaves && answer.status == 200 && refused.empty()) {
      ++report_.left;
      return false;
    }
    if (!answer.whole || answer.status != 200 || made != config_.answer_tokens) {
      const std::string kind = !refused.empty()          ? refused
                               : answer.status >= 400    ? fmt::format("status {}", answer.status)
                               : !answer.problem.empty() ? answer.problem
                                                         : "another number of tokens than asked for";
      ++report_.failures[kind];
      return false;
    }
    ++report_.complete;
    report_.prompt_tokens += prompt;
    report_.reused_tokens += reused;
    if (config_.stream) {
      (turn == 0 ? first_token_ : later_).push_back(first);
      token_.insert(token_.end(), gaps.begin(), gaps.end());
    }
    request_.push_back(whole);
    return true;
  }

  const LoadConfig& config_;
  const ServerAddress address_;
  int64_t vocabulary_ = 0;
  std::vector<int32_t> shared_;
  std::vector<double> arrivals_;
  std::atomic<std::size_t> next_{0};
  Clock::time_point start_;
  std::mutex mutex_;
  LoadReport report_;
  std::vector<double> first_token_, later_, token_, request_;
};

json of(const Percentiles& p) {
  return {{"p50", p.p50}, {"p90", p.p90}, {"p99", p.p99}, {"max", p.max}, {"count", p.count}};
}

std::string row(const char* name, const Percentiles& p) {
  if (p.count == 0) return "";
  return fmt::format("{:<32}{:>10.2f}{:>10.2f}{:>10.2f}{:>10.2f}\n", name, p.p50 * 1e3, p.p90 * 1e3, p.p99 * 1e3,
                     p.max * 1e3);
}

}  // namespace load_file

Percentiles percentiles(std::vector<double> values) {
  Percentiles p;
  p.count = values.size();
  if (values.empty()) return p;
  std::sort(values.begin(), values.end());
  auto at = [&](double share) {
    const auto rank = static_cast<std::size_t>(std::ceil(share * static_cast<double>(values.size())));
    return values[std::max<std::size_t>(rank, 1) - 1];
  };
  p.p50 = at(0.5), p.p90 = at(0.9), p.p99 = at(0.99), p.max = values.back();
  return p;
}

LoadReport run_load(const LoadConfig& config) {
  require(config.conversations > 0 && config.turns > 0 && config.concurrency > 0 && config.answer_tokens > 0,
          "conversations, turns, concurrency and answer tokens must be at least 1");
  require(config.shared_tokens >= 0 && config.prompt_tokens >= 0 && config.shared_tokens + config.prompt_tokens > 0,
          "a prompt must have at least one token");
  require(config.turns == 1 || config.turn_tokens > 0, "a further turn must have at least one token");
  require(config.concurrency <= 4096, "at most 4096 conversations at the same time, not {}", config.concurrency);
  return load_file::Load(config).run();
}

nlohmann::json to_json(const LoadConfig& c, const LoadReport& r) {
  using load_file::of;
  return {{"load",
           {{"conversations", c.conversations},
            {"turns", c.turns},
            {"rate", c.rate},
            {"concurrency", c.concurrency},
            {"shared_tokens", c.shared_tokens},
            {"prompt_tokens", c.prompt_tokens},
            {"turn_tokens", c.turn_tokens},
            {"answer_tokens", c.answer_tokens},
            {"temperature", c.temperature},
            {"stream", c.stream},
            {"think_seconds", c.think_seconds},
            {"leave", c.leave},
            {"seed", c.seed}}},
          {"seconds", r.seconds},
          {"requests", r.requests},
          {"complete", r.complete},
          {"left", r.left},
          {"failures", r.failures},
          {"prompt_tokens", r.prompt_tokens},
          {"reused_tokens", r.reused_tokens},
          {"answer_tokens", r.answer_tokens},
          {"tokens_per_second", r.seconds > 0 ? static_cast<double>(r.answer_tokens) / r.seconds : 0},
          {"requests_per_second", r.seconds > 0 ? static_cast<double>(r.complete) / r.seconds : 0},
          {"first_token_seconds", of(r.first_token)},
          {"later_turns_first_token_seconds", of(r.later_turns_first_token)},
          {"token_seconds", of(r.token)},
          {"request_seconds", of(r.request)}};
}

std::string to_table(const LoadReport& r) {
  std::string out = fmt::format(
      "{} requests in {:.2f} s: {} complete, {} left on purpose\n{} tokens made, {:.1f} tokens/s, {:.2f} requests/s; "
      "{} of "
      "{} prompt tokens reused\n",
      r.requests, r.seconds, r.complete, r.left, r.answer_tokens,
      r.seconds > 0 ? static_cast<double>(r.answer_tokens) / r.seconds : 0,
      r.seconds > 0 ? static_cast<double>(r.complete) / r.seconds : 0, r.reused_tokens, r.prompt_tokens);
  for (const auto& [kind, number] : r.failures) out += fmt::format("{} FAILED: {}\n", number, kind);
  out += fmt::format("\n{:<32}{:>10}{:>10}{:>10}{:>10}\n", "milliseconds", "p50", "p90", "p99", "max");
  return out + load_file::row("to the first token", r.first_token) +
         load_file::row("to the first token, later turns", r.later_turns_first_token) +
         load_file::row("between tokens", r.token) + load_file::row("whole request", r.request);
}

}  // namespace rattan::serve
