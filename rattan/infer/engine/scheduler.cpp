#include "rattan/infer/engine/scheduler.h"

#include <algorithm>
#include <utility>

#include "rattan/base/error.h"

namespace rattan::infer {
namespace scheduler_file {

// A GPU holds all rows from the start, so there may be fewer of them than asked for; a quarter is left to the cache.
int64_t rows_for(models::Model& model, const EngineConfig& config) {
  const int64_t one = model.state_spec().bytes(config.max_context, model.compute);
  if (device_of(model).is_cpu()) return config.max_sequences;
  const int64_t bytes = config.prefix_cache ? config.memory / 4 * 3 : config.memory;
  const int64_t rows = bytes / std::max<int64_t>(one, 1) - Reader::spare_rows(device_of(model));
  return std::clamp<int64_t>(rows, 1, config.max_sequences);
}

}  // namespace scheduler_file

Scheduler::Scheduler(models::Model& model, const Tokenizer& tokenizer, const EngineConfig& config, Outlet& outlet)
    : tokenizer_(tokenizer),
      config_(config),
      outlet_(outlet),
      reader_(model, scheduler_file::rows_for(model, config), config.max_context, config.graph, config.strict),
      memory_(reader_.store(), scheduler_file::rows_for(model, config), config.memory,
              [this] { return cache_.evict_one(); }),
      cache_(reader_.store(), model.state_spec(), memory_,
             {.enabled = config.prefix_cache && !reader_.whole_prefix(), .snapshot_every = config.snapshot_every}),
      vocabulary_(tokenizer.vocab_size()) {
  // A device chooses for all, though the host may have to choose for some, so that there is one recorded step of a
  // size. On a processor logits are at hand, and the host's choice is cheaper.
  const bool cuda = reader_.device().is_cuda();
  if (reader_.chooses() && (cuda || config.overlap.value_or(false))) choose_ = vocabulary_;
  overlaps_ = choose_ > 0 && config.overlap.value_or(cuda) && config.lookup == 0;
}

void Scheduler::record() { reader_.record(choose_); }

void Scheduler::add(const std::shared_ptr<Live>& live) {
  live->unfinished = live->request.choices;
  for (int64_t choice = 0; choice < live->request.choices; ++choice) {
    auto s = std::make_unique<Sequence>(live, choice, tokenizer_);
    s->leads = choice == 0;
    waiting_.push_back(std::move(s));
  }
}

void Scheduler::step() {
  drop_cancelled();
  admit();
  prefill();
  remove_finished();
  decode();
  remove_finished();
  ++counts_.steps;
}

void Scheduler::drop_cancelled() {
  std::vector<std::shared_ptr<Live>> left;
  auto cancelled = [&](const SequencePtr& s) {
    if (!s->live->cancelled) return false;
    // An answer that was stopped is often gone on from.
    if (s->row >= 0) keep(*s);
    park(*s);
    flight_.forget(*s);
    if (std::find(left.begin(), left.end(), s->live) == left.end()) left.push_back(s->live);
    return true;
  };
  std::erase_if(waiting_, cancelled);
  std::erase_if(running_, cancelled);
  for (const auto& live : left) outlet_.gone(*live);
}

void Scheduler::park(Sequence& s) {
  if (s.row >= 0) memory_.free_row(s.row);
  s.row = -1;
  s.read = s.in_flight = 0;
}

// The other choices of a prompt wait until the first has read it, without holding up who comes after them.
void Scheduler::admit() {
  for (auto at = waiting_.begin(); at != waiting_.end();) {
    Sequence& s = **at;
    if (!s.leads && !s.live->told_prompt) {
      ++at;
      continue;
    }
    if (!start(s)) return;
    running_.push_back(std::move(*at));
    at = waiting_.erase(at);
  }
}

bool Scheduler::start(Sequence& s) {
  // Who was put aside comes back when there is room for all of it, lest it be put aside again at once.
  if (!running_.empty() && !memory_.fits(s.preempted ? s.longest() : s.size())) return false;
  const int64_t row = memory_.take_row();
  if (row < 0) return false;
  const bool reads_all = s.request().prompt_logprobs && !s.live->told_prompt;
  const std::span<const int32_t> usable = std::span(s.ids).first(static_cast<std::size_t>(s.size() - 1));
  if (!reads_all) cache_.touch(usable);
  if (!memory_.grow(row, s.size())) {
    memory_.free_row(row);
    if (running_.empty()) rattan::fail("the states of one sequence of {} tokens do not fit the memory", s.size());
    return false;
  }
  s.row = row;
  s.read = reads_all ? 0 : cache_.restore(usable, row);
  s.admission = ++admissions_;
  counts_.reused_tokens += static_cast<uint64_t>(s.read);
  if (reads_all) s.live->prompt_top.clear();
  if (!std::exchange(s.live->admitted, true)) {
    s.live->reused = s.read;
    outlet_.admitted(*s.live);
  }
  return true;
}

// Right guesses may have been read beyond the text; a state without them is known only where it resumes.
void Scheduler::keep(const Sequence& s) {
  if (s.read > s.size() && cache_.needs_snapshots()) return;
  const int64_t known = std::min(s.read, s.size());
  cache_.insert(std::span(s.ids).first(static_cast<std::size_t>(known)), s.row);
}

bool Scheduler::grow(Sequence& s, int64_t tokens) {
  while (!memory_.grow(s.row, tokens)) {
    Sequence* youngest = &s;
    for (const SequencePtr& other : running_)
      if (other->row >= 0 && other->admission > youngest->admission) youngest = other.get();
    preempt(*youngest);
    if (youngest == &s) return false;
  }
  return true;
}

void Scheduler::preempt(Sequence& s) {
  park(s);
  s.preempted = true;
  ++counts_.preempted;
}

// Back to the queue go those without a row that have not finished.
void Scheduler::remove_finished() {
  for (const SequencePtr& s : running_)
    if (s && s->row < 0) flight_.forget(*s);
  for (auto s = running_.rbegin(); s != running_.rend(); ++s)
    if (*s && (*s)->row < 0 && (*s)->preempted) waiting_.push_front(std::move(*s));
  std::erase_if(running_, [](const SequencePtr& s) { return !s || s->row < 0; });
}

void Scheduler::finish(Sequence& s, Finish finish) {
  Live& live = *s.live;
  keep(s);
  s.preempted = false;
  park(s);
  const bool last = --live.unfinished == 0;
  EngineEvent event;
  event.kind = EngineEvent::Kind::finished;
  event.choice = s.choice;
  event.finish = finish;
  outlet_.tell(live, event);
  if (last) outlet_.gone(live);
}

void Scheduler::fail(Live& live, const std::string& error) {
  for (const SequencePtr& s : running_) {
    if (!s || s->live.get() != &live) continue;
    s->preempted = false;
    park(*s);
  }
  std::erase_if(waiting_, [&](const SequencePtr& s) { return s->live.get() == &live; });
  EngineEvent event;
  event.kind = EngineEvent::Kind::failed;
  event.error = error;
  outlet_.tell(live, event);
  outlet_.gone(live);
}

void Scheduler::fail_all(const std::string& error) {
  std::vector<std::shared_ptr<Live>> all;
  auto note = [&](const SequencePtr& s) {
    if (s && std::find(all.begin(), all.end(), s->live) == all.end()) all.push_back(s->live);
  };
  std::for_each(running_.begin(), running_.end(), note);
  std::for_each(waiting_.begin(), waiting_.end(), note);
  for (const auto& live : all) fail(*live, error);
  remove_finished();
}

}  // namespace rattan::infer
