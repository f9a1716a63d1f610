#include "rattan/serve/completion.h"

#include <fmt/core.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "rattan/base/error.h"
#include "rattan/serve/api_error.h"

namespace rattan::serve {

Completion::Completion(CompletionHost host, CompletionPlan plan, std::shared_ptr<Reply> reply)
    : host_(host),
      plan_(std::move(plan)),
      reply_(std::move(reply)),
      created_(std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
                   .count()),
      began_(std::chrono::steady_clock::now()),
      parts_(plan_.parts.size()),
      open_parts_(plan_.parts.size()),
      stream_frame_(stream_frame()) {
  for (Part& part : parts_) {
    part.choices.resize(static_cast<std::size_t>(plan_.best_of));
    part.open = plan_.best_of;
  }
}

void Completion::start() {
  const auto self = shared_from_this();
  try {
    for (std::size_t i = 0; i < plan_.parts.size(); ++i) {
      const uint64_t id =
          host_.backend.submit(plan_.parts[i], [self, i](const infer::EngineEvent& event) { self->arrive(i, event); });
      const std::lock_guard lock(mutex_);
      requests_.push_back(id);
    }
  } catch (const infer::Busy&) {
    give_up();
    throw ApiError(429, "the server's queue is full; try again in a moment", "", "queue_full", 1);
  } catch (const InputError& error) {
    give_up();
    throw ApiError(400, error.what());
  }
  // Until here no event was taken, so that a refusal could still be answered.
  host_.pool.gather([self] { self->work_off(); });
  host_.pool.flush();
  reply_->on_gone([self] { self->arrive(kGone, {}); });
  const std::lock_guard lock(mutex_);
  if (over_) return;
  late_ = host_.pool.after(plan_.seconds, [weak = std::weak_ptr<Completion>(self)] {
    if (const auto late = weak.lock()) late->arrive(kLate, {});
  });
}

// What the engine, the clock and the connection tell goes through one queue: none of them may be held up, and the
// answer is made by one thread at a time.
void Completion::arrive(std::size_t part, const infer::EngineEvent& event) {
  const std::lock_guard lock(mutex_);
  if (over_) return;
  arrived_.push_back({part, event});
  if (working_) return;
  working_ = true;
  host_.pool.gather([self = shared_from_this()] { self->work_off(); });
  if (part >= parts_.size()) host_.pool.flush();  // the engine flushes after its step
}

// One thread at a time: `working_` is set from the first event until none is left.
void Completion::work_off() {
  std::deque<Arrived> batch;
  for (;;) {
    {
      const std::lock_guard lock(mutex_);
      if (over_ || arrived_.empty()) {
        working_ = false;
        return;
      }
      batch.swap(arrived_);
    }
    for (Arrived& one : batch) take(one.part, one.event);
    batch.clear();
  }
}

void Completion::take(std::size_t part, infer::EngineEvent& event) {
  using Kind = infer::EngineEvent::Kind;
  {
    const std::lock_guard lock(mutex_);
    if (over_) return;
  }
  if (part == kGone) return give_up(), note_end("client left");
  if (part == kLate) return fail(503, "the request took longer than this server allows");
  switch (event.kind) {
    case Kind::prompt:
      return take_prompt(part, event);
    case Kind::token:
      return take_token(part, event);
    case Kind::failed:
      host_.log.write("error", "engine", {{"request", plan_.request_id}, {"error", event.error}});
      return fail(500, "the server failed while it worked on this request; its log says why under this request's id");
    case Kind::finished:
      break;
  }
  Part& p = parts_[part];
  const auto index = static_cast<std::size_t>(event.choice);
  p.choices[index].finish = event.finish == infer::Finish::length ? "length" : "stop";
  if (plan_.chat) remember(p, index);
  if (plan_.stream) {
    send_held(part, index);
    nlohmann::json choice = {{"index", static_cast<int64_t>(part) * plan_.n + event.choice},
                             {"finish_reason", p.choices[index].finish},
                             {"logprobs", nullptr}};
    plan_.chat ? choice["delta"] = nlohmann::json::object() : choice["text"] = "";
    stream(choice);
  }
  if (--p.open == 0 && --open_parts_ == 0) complete();
}

void Completion::take_prompt(std::size_t part, infer::EngineEvent& event) {
  Part& p = parts_[part];
  p.reused = event.reused;
  const std::vector<int32_t>& prompt = plan_.parts[part].prompt;
  if (plan_.echo && plan_.logprobs) {
    p.prompt_reports.push_back({{prompt[0], 0}, {}});
    for (auto& top : event.prompt_top) {
      TokenReport report{top.front(), {}};
      report.top.assign(top.begin() + 1, top.end());
      p.prompt_reports.push_back(std::move(report));
    }
  }
  if (!plan_.stream) return;
  for (std::size_t i = 0; i < p.choices.size(); ++i) {
    nlohmann::json choice = {{"index", static_cast<int64_t>(part) * plan_.n + static_cast<int64_t>(i)},
                             {"finish_reason", nullptr},
                             {"logprobs", nullptr}};
    if (plan_.chat) {
      choice["delta"] = {{"role", "assistant"}, {"content", ""}};
      stream(choice);
    } else if (plan_.echo) {
      choice["text"] = plan_.prompt_texts[part];
      if (plan_.logprobs)
        choice["logprobs"] = completion_logprobs(host_.tokenizer, p.prompt_reports, true, p.choices[i].offset);
      stream(choice);
    }
  }
}

void Completion::take_token(std::size_t part, infer::EngineEvent& event) {
  if (first_token_seconds_ < 0)
    first_token_seconds_ = std::chrono::duration<double>(std::chrono::steady_clock::now() - began_).count();
  Choice& c = parts_[part].choices[static_cast<std::size_t>(event.choice)];
  c.ids.push_back(event.token.id);
  c.logprob += event.token.logprob;
  // A stream needs its text later only to remember a chat.
  if (!plan_.stream || plan_.chat) c.text += event.text;
  if (!plan_.stream) {
    if (plan_.logprobs) c.reports.push_back({event.token, std::move(event.top)});
    return;
  }
  c.held_text += event.text;
  if (plan_.token_ids) c.held_ids.push_back(event.token.id);
  if (plan_.logprobs) c.held_reports.push_back({event.token, std::move(event.top)});
  const auto now = std::chrono::steady_clock::now();
  if (std::chrono::duration<double>(now - c.sent).count() < plan_.stream_seconds) return;
  c.sent = now;
  send_held(part, static_cast<std::size_t>(event.choice));
}

void Completion::send_held(std::size_t part, std::size_t index) {
  Choice& c = parts_[part].choices[index];
  if (c.held_text.empty() && c.held_reports.empty() && c.held_ids.empty()) return;
  nlohmann::json choice = {{"index", static_cast<int64_t>(part) * plan_.n + static_cast<int64_t>(index)},
                           {"finish_reason", nullptr},
                           {"logprobs", nullptr}};
  if (plan_.logprobs) {
    choice["logprobs"] = plan_.chat ? chat_logprobs(host_.tokenizer, c.held_reports)
                                    : completion_logprobs(host_.tokenizer, c.held_reports, false, c.offset);
  }
  if (plan_.token_ids) choice["token_ids"] = c.held_ids;
  plan_.chat ? choice["delta"] = {{"content", c.held_text}} : choice["text"] = c.held_text;
  c.held_text.clear(), c.held_ids.clear(), c.held_reports.clear();
  stream(choice);
}

void Completion::remember(const Part& part, std::size_t index) {
  const Choice& c = part.choices[index];
  const auto answer = leading_tokens(c.ids, c.text, host_.tokenizer);
  if (!answer) return;
  std::vector<int32_t> tokens = plan_.parts.front().prompt;
  tokens.insert(tokens.end(), answer->begin(), answer->end());
  host_.memory.remember(plan_.prompt_texts.front() + c.text, std::move(tokens));
}

void Completion::give_up() {
  std::vector<uint64_t> requests;
  {
    const std::lock_guard lock(mutex_);
    over_ = true;
    host_.pool.cancel(late_);
    arrived_.clear();
    requests.swap(requests_);
  }
  for (const uint64_t id : requests) host_.backend.cancel(id);
}

void Completion::note_end(const char* how) {
  int64_t prompt = 0, reused = 0, made = 0;
  for (std::size_t i = 0; i < parts_.size(); ++i) {
    prompt += static_cast<int64_t>(plan_.parts[i].prompt.size());
    reused += parts_[i].reused;
    for (const Choice& c : parts_[i].choices) made += static_cast<int64_t>(c.ids.size());
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began_).count();
  nlohmann::json fields = {{"request", plan_.request_id},
                           {"end", how},
                           {"prompts", parts_.size()},
                           {"prompt_tokens", prompt},
                           {"reused", reused},
                           {"generated", made},
                           {"seconds", std::round(seconds * 1e4) / 1e4}};
  if (first_token_seconds_ >= 0) fields["first_token_seconds"] = std::round(first_token_seconds_ * 1e4) / 1e4;
  host_.log.write("info", "completion", fields);
}

}  // namespace rattan::serve
