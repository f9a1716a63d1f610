// The scheduler's making of tokens.
#include <algorithm>
#include <optional>
#include <utility>

#include "rattan/infer/engine/scheduler.h"

namespace rattan::infer {

// Whoever needs the host for its next token needs to have its last one there. And where states are snapshots, what may
// end any time must not have read its last token: the next turn of a chat goes on from the state before it.
bool Scheduler::may_overlap() const {
  return overlaps_ && std::all_of(running_.begin(), running_.end(), [this](const SequencePtr& s) {
           const EngineRequest& r = s->request();
           const bool may_end = !r.end_tokens.empty() || !r.stop.empty();
           return s->row < 0 || s->prefilling() || (draws_plainly(*s) && !(may_end && cache_.needs_snapshots()));
         });
}

void Scheduler::decode() {
  const bool overlap = may_overlap();
  if (!overlap) land();
  std::vector<Sequence*> ready;
  for (const SequencePtr& s : running_)
    if (s->row >= 0 && !s->prefilling() && s->made() + s->in_flight < s->request().max_tokens) ready.push_back(s.get());
  // The oldest first: who started last gives way.
  std::stable_sort(ready.begin(), ready.end(),
                   [](const Sequence* a, const Sequence* b) { return a->admission < b->admission; });
  std::vector<Sequence*> singly;
  std::vector<std::pair<Sequence*, std::vector<int32_t>>> guessed;
  for (Sequence* s : ready) {
    if (s->row < 0) continue;
    if (cache_.on_ladder(s->read)) keep(*s);
    std::vector<int32_t> guesses = guess(*s);
    if (!grow(*s, s->read + 1 + std::ssize(guesses))) continue;
    if (guesses.empty()) {
      singly.push_back(s);
    } else {
      guessed.emplace_back(s, std::move(guesses));
    }
  }
  // Who came later may have given way to one before it.
  std::erase_if(singly, [](const Sequence* s) { return s->row < 0; });
  std::erase_if(guessed, [](const auto& entry) { return entry.first->row < 0; });
  if (!singly.empty()) {
    decode_singly(singly, overlap);
  } else {
    land();
  }
  std::erase_if(guessed, [](const auto& entry) { return entry.first->row < 0; });  // its request failed
  if (!guessed.empty()) decode_guessing(guessed);
}

void Scheduler::decode_singly(const std::vector<Sequence*>& ready, bool overlap) {
  std::vector<Reader::Token> tokens;
  for (const Sequence* s : ready) {
    tokens.push_back({.row = s->row, .held = s->read, .id = s->ids.back(), .follows = flight_.place(*s)});
    if (choose_ > 0 && draws_plainly(*s)) tokens.back().rule = draw_rule(*s);
  }
  const Reader::Next next = reader_.step(tokens, choose_);
  for (Sequence* s : ready) ++s->read;
  if (overlap) {
    Flight started(ready, next);
    for (Sequence* s : ready) ++s->in_flight;
    land();
    flight_ = std::move(started);
    return;
  }
  std::vector<NextToken> made = next_tokens(ready, next, vocabulary_);
  for (std::size_t i = 0; i < ready.size(); ++i)
    if (ready[i]->row >= 0) accept(*ready[i], std::move(made[i]));
}

void Scheduler::land() {
  Flight flight = std::exchange(flight_, {});
  std::vector<NextToken> made = flight.land();
  for (std::size_t i = 0; i < made.size(); ++i) {
    Sequence* s = flight.sequences()[i];
    if (!s || s->row < 0) continue;
    --s->in_flight;
    accept(*s, std::move(made[i]));
  }
}

void Scheduler::accept(Sequence& s, NextToken next) {
  if (!next.error.empty()) return fail(*s.live, next.error);
  const EngineRequest& request = s.request();
  EngineEvent event;
  event.choice = s.choice;
  event.token = {next.choice.id, next.choice.logprob};
  event.top = std::move(next.top);
  s.ids.push_back(next.choice.id);
  ++counts_.generated_tokens;
  std::optional<Finish> ends;
  if (std::find(request.end_tokens.begin(), request.end_tokens.end(), next.choice.id) != request.end_tokens.end()) {
    ends = Finish::end_of_document;
  } else {
    if (request.grammar) s.grammar = request.grammar->next(s.grammar, next.choice.id);
    event.text = s.text.push(next.choice.id);
    if (s.text.stopped()) {
      ends = Finish::stop;
    } else if (s.made() >= request.max_tokens) {
      ends = Finish::length;
    }
  }
  if (ends) event.text += s.text.finish();
  outlet_.tell(*s.live, event);
  if (ends) finish(s, *ends);
}

}  // namespace rattan::infer
