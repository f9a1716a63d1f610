// The scheduler's making of tokens.
#include <algorithm>
#include <optional>

#include "rattan/infer/engine/scheduler.h"

namespace rattan::infer {

void Scheduler::decode() {
  std::vector<Sequence*> ready;
  for (const SequencePtr& s : running_)
    if (s->row >= 0 && !s->prefilling()) ready.push_back(s.get());
  // The oldest first: who started last gives way.
  std::stable_sort(ready.begin(), ready.end(),
                   [](const Sequence* a, const Sequence* b) { return a->admission < b->admission; });
  std::vector<Sequence*> singly;
  std::vector<std::pair<Sequence*, std::vector<int32_t>>> guessed;
  for (Sequence* s : ready) {
    if (s->row < 0) continue;
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
  if (!singly.empty()) decode_singly(singly);
  std::erase_if(guessed, [](const auto& entry) { return entry.first->row < 0; });  // its request failed
  if (!guessed.empty()) decode_guessing(guessed);
}

void Scheduler::decode_singly(const std::vector<Sequence*>& ready) {
  std::vector<Reader::Token> tokens;
  for (const Sequence* s : ready) tokens.push_back({s->row, s->read, s->ids.back()});
  const auto best = std::count_if(ready.begin(), ready.end(), [](const Sequence* s) { return takes_best(*s); });
  // A GPU chooses, so that logits need not be copied. On a processor they are at hand, and the host's choice is
  // cheaper.
  const bool greedy = !config_.strict && reader_.device().is_cuda() && best > 0;
  const Reader::Next next = reader_.step(tokens, memory_.free_rows(), greedy ? vocabulary_ : 0);
  std::vector<NextToken> made = next_tokens(ready, next, vocabulary_);
  for (Sequence* s : ready) ++s->read;
  for (std::size_t i = 0; i < ready.size(); ++i)
    if (ready[i]->row >= 0) accept(*ready[i], std::move(made[i]));
}

void Scheduler::accept(Sequence& s, NextToken next) {
  if (!next.error.empty()) return fail(*s.live, next.error);
  const EngineRequest& request = s.request();
  if (s.read <= s.size() && cache_.on_ladder(s.read)) keep(s);
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
