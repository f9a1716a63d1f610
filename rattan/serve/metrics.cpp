#include "rattan/serve/metrics.h"

#include <fmt/core.h>

#include <iterator>

#include "rattan/base/version.h"

namespace rattan::serve {
namespace metrics_file {

class Writer {
 public:
  void family(const char* name, const char* type, const char* help) {
    add("# HELP {} {}\n# TYPE {} {}\n", name, help, name, type);
  }
  template <class Number>
  void value(const std::string& name, Number number) {
    add("{} {}\n", name, number);
  }
  template <class Number>
  void one(const char* name, const char* type, const char* help, Number number) {
    family(name, type, help);
    value(name, number);
  }
  void histogram(const char* name, const char* help, const infer::Histogram& h) {
    family(name, "histogram", help);
    uint64_t sum = 0;
    for (std::size_t i = 0; i < h.counts.size(); ++i) {
      sum += h.counts[i];
      if (i < h.bounds.size()) add("{}_bucket{{le=\"{}\"}} {}\n", name, h.bounds[i], sum);
    }
    add("{}_bucket{{le=\"+Inf\"}} {}\n{}_sum {}\n{}_count {}\n", name, sum, name, h.sum, name, sum);
  }
  std::string text;

 private:
  template <class... Args>
  void add(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(text), format, std::forward<Args>(args)...);
  }
};

std::string label(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\' || c == '"') out += '\\';
    if (c == '\n') {
      out += "\\n";
    } else {
      out += c;
    }
  }
  return out;
}

void engine(Writer& w, const infer::EngineStats& s) {
  w.one("rattan_requests_waiting", "gauge", "Requests in the queue.", s.waiting);
  w.one("rattan_sequences_running", "gauge", "Sequences that are decoded or read.", s.running);
  w.one("rattan_slots", "gauge", "Sequences that can run at the same time.", s.slots);
  w.one("rattan_requests_total", "counter", "Requests that the engine took.", s.requests);
  w.one("rattan_requests_cancelled_total", "counter", "Requests that were given up by their clients.", s.cancelled);
  w.one("rattan_requests_failed_total", "counter", "Requests that failed.", s.failed);
  w.one("rattan_sequences_preempted_total", "counter", "Sequences put aside for want of memory.", s.preempted);
  w.one("rattan_prompt_tokens_total", "counter", "Prompt tokens, read or reused.", s.prompt_tokens);
  w.one("rattan_reused_tokens_total", "counter", "Prompt tokens whose state was in the prefix cache.", s.reused_tokens);
  w.one("rattan_generated_tokens_total", "counter", "Tokens made.", s.generated_tokens);
  w.one("rattan_steps_total", "counter", "Steps of the engine.", s.steps);
  w.one("rattan_guessed_tokens_total", "counter", "Tokens guessed by prompt lookup.", s.guessed);
  w.one("rattan_guessed_right_total", "counter", "Guessed tokens that were right.", s.guesses_right);
  w.one("rattan_cache_hits_total", "counter", "Prompts that found a prefix in the cache.", s.cache_hits);
  w.family("rattan_cache_misses_total", "counter", "Prompts that found none or less than they share, by reason.");
  for (const auto& [reason, number] : s.cache_misses)
    w.value(fmt::format("rattan_cache_misses_total{{reason=\"{}\"}}", label(reason)), number);
  w.one("rattan_cache_evictions_total", "counter", "Cached prefixes that gave way.", s.cache_evictions);
  w.one("rattan_state_bytes", "gauge", "Bytes of sequences' states; free slots keep theirs until it is needed.",
        s.state_bytes);
  w.one("rattan_cache_bytes", "gauge", "Bytes of cached prefixes.", s.cache_bytes);
  w.one("rattan_memory_bytes", "gauge", "Bytes that states and cached prefixes may take.", s.memory);
  w.histogram("rattan_time_to_first_token_seconds", "From a request's arrival to its first token.",
              s.first_token_seconds);
  w.histogram("rattan_time_per_token_seconds", "Between two tokens of a sequence.", s.token_seconds);
  w.histogram("rattan_queue_seconds", "From a request's arrival to its first step.", s.queue_seconds);
}

}  // namespace metrics_file

void Metrics::count(const std::string& route, int status) {
  const std::lock_guard lock(mutex_);
  ++answers_[{route, status}];
}

void Metrics::aborted() {
  const std::lock_guard lock(mutex_);
  ++aborted_;
}

std::string Metrics::text(const infer::EngineStats* stats, int64_t connections) const {
  metrics_file::Writer w;
  w.family("rattan_build_info", "gauge", "The version that runs.");
  w.value(fmt::format("rattan_build_info{{version=\"{}\"}}", metrics_file::label(version())), 1);
  w.one("rattan_ready", "gauge", "1 when the model is loaded.", stats != nullptr ? 1 : 0);
  w.one("rattan_http_connections", "gauge", "Open connections.", connections);
  {
    const std::lock_guard lock(mutex_);
    w.family("rattan_http_answers_total", "counter", "Answers, by route and status.");
    for (const auto& [key, number] : answers_)
      w.value(fmt::format("rattan_http_answers_total{{route=\"{}\",status=\"{}\"}}", key.first, key.second), number);
    w.one("rattan_http_aborted_total", "counter", "Answers whose client left or was too slow.", aborted_);
  }
  if (stats != nullptr) metrics_file::engine(w, *stats);
  return w.text;
}

}  // namespace rattan::serve
