// The answer of a completion: whole, or as a stream of events.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>

#include "rattan/serve/api_error.h"
#include "rattan/serve/completion.h"

namespace rattan::serve {
namespace completion_answer_file {

using nlohmann::json;

std::string dump(const json& value) { return value.dump(-1, ' ', false, json::error_handler_t::replace); }

}  // namespace completion_answer_file

nlohmann::json Completion::frame(const char* object) const {
  return {{"id", (plan_.chat ? "chatcmpl-" : "cmpl-") + plan_.request_id},
          {"object", object},
          {"created", created_},
          {"model", plan_.model}};
}

nlohmann::json Completion::usage() const {
  int64_t prompt = 0, reused = 0, made = 0, longest = 0;
  for (std::size_t i = 0; i < parts_.size(); ++i) {
    const auto size = static_cast<int64_t>(plan_.parts[i].prompt.size());
    prompt += size;
    reused += parts_[i].reused;
    for (const Choice& c : parts_[i].choices) {
      made += static_cast<int64_t>(c.ids.size());
      longest = std::max(longest, size + static_cast<int64_t>(c.ids.size()));
    }
  }
  return {{"prompt_tokens", prompt},
          {"completion_tokens", made},
          {"total_tokens", prompt + made},
          {"prompt_tokens_details", {{"cached_tokens", reused}}},
          {"state_bytes", host_.backend.state_bytes(longest)}};
}

nlohmann::json Completion::choice_json(std::size_t part, std::size_t from, int64_t index) {
  Part& p = parts_[part];
  Choice& c = p.choices[from];
  nlohmann::json choice = {{"index", index}, {"finish_reason", c.finish}, {"logprobs", nullptr}};
  if (plan_.token_ids) choice["token_ids"] = c.ids;
  if (plan_.chat) {
    choice["message"] = {{"role", "assistant"}, {"content", c.text}, {"refusal", nullptr}};
    if (plan_.logprobs) choice["logprobs"] = chat_logprobs(host_.tokenizer, c.reports);
    return choice;
  }
  choice["text"] = (plan_.echo ? plan_.prompt_texts[part] : "") + c.text;
  if (plan_.logprobs) {
    std::vector<TokenReport> reports = p.prompt_reports;
    reports.insert(reports.end(), c.reports.begin(), c.reports.end());
    int64_t offset = 0;
    choice["logprobs"] = completion_logprobs(host_.tokenizer, reports, plan_.echo, offset);
  }
  return choice;
}

void Completion::complete() {
  {
    const std::lock_guard lock(mutex_);
    if (over_) return;
    over_ = true;
    host_.pool.cancel(late_);
    requests_.clear();
  }
  if (plan_.stream) {
    if (plan_.include_usage) {
      nlohmann::json last = frame(plan_.chat ? "chat.completion.chunk" : "text_completion");
      last["choices"] = nlohmann::json::array();
      last["usage"] = usage();
      stream_event(completion_answer_file::dump(last));
    }
    reply_->write("data: [DONE]\n\n");
    reply_->end();
    return note_end("complete");
  }
  nlohmann::json answer = frame(plan_.chat ? "chat.completion" : "text_completion");
  nlohmann::json& choices = answer["choices"] = nlohmann::json::array();
  for (std::size_t part = 0; part < parts_.size(); ++part) {
    // best_of: the n texts with the highest mean log-probability of a token.
    std::vector<std::size_t> order(parts_[part].choices.size());
    std::iota(order.begin(), order.end(), 0);
    if (plan_.best_of > plan_.n) {
      auto mean = [&](std::size_t i) {
        const Choice& c = parts_[part].choices[i];
        return c.ids.empty() ? 0 : c.logprob / static_cast<double>(c.ids.size());
      };
      std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return mean(a) > mean(b); });
    }
    for (int64_t i = 0; i < plan_.n; ++i)
      choices.push_back(
          choice_json(part, order[static_cast<std::size_t>(i)], static_cast<int64_t>(part) * plan_.n + i));
  }
  answer["usage"] = usage();
  reply_->send({200, completion_answer_file::dump(answer), "application/json", {}});
  note_end("complete");
}

void Completion::fail(int status, const std::string& message) {
  {
    const std::lock_guard lock(mutex_);
    if (over_) return;
  }
  give_up();
  const ApiError error(status, message, "", status == 503 ? "timeout" : "");
  if (begun_) {  // the status was sent long ago
    reply_->write("data: " + completion_answer_file::dump(error.json()) + "\n\n");
    reply_->end();
  } else {
    HttpHeaders headers;
    if (status == 503) headers.emplace_back("Retry-After", "1");
    reply_->send({status, completion_answer_file::dump(error.json()), "application/json", std::move(headers)});
  }
  note_end("failed");
}

std::string Completion::stream_frame() const {
  nlohmann::json event = frame(plan_.chat ? "chat.completion.chunk" : "text_completion");
  if (plan_.include_usage) event["usage"] = nullptr;
  return completion_answer_file::dump(event).substr(1);  // behind "{"
}

void Completion::stream(const nlohmann::json& choice) {
  stream_event("{\"choices\":[" + completion_answer_file::dump(choice) + "]," + stream_frame_);
}

void Completion::stream_event(const std::string& event) {
  if (!begun_) {
    begun_ = true;
    // Proxies must pass events on as they come.
    reply_->begin({200, "", "text/event-stream", {{"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}}});
  }
  reply_->write("data: " + event + "\n\n");  // if the client is gone, on_gone says so
}

}  // namespace rattan::serve
