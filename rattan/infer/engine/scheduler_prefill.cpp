// The scheduler's reading of prompts.
#include <algorithm>

#include "rattan/infer/engine/scheduler.h"

namespace rattan::infer {
namespace scheduler_prefill_file {

// Tokens of a prompt in one step where each is a call of its own, so that steps stay short.
constexpr int64_t strict_piece = 16;

// Tokens below which a call of the model costs more than they do: shares are not cut smaller.
constexpr int64_t least_share = 256;

}  // namespace scheduler_prefill_file

// The step's tokens are shared evenly, but not into small pieces: the prompt that came first has one for certain, so
// that it gets on whoever arrives, then those with the least left to read. What short prompts leave over goes to longer
// ones.
std::vector<Reader::Piece> Scheduler::pieces(const std::vector<Sequence*>& readers) const {
  using scheduler_prefill_file::least_share, scheduler_prefill_file::strict_piece;
  std::vector<Sequence*> by_rest = readers;
  std::stable_sort(by_rest.begin(), by_rest.end(),
                   [](const Sequence* a, const Sequence* b) { return a->target() - a->read < b->target() - b->read; });
  const auto oldest = std::min_element(
      by_rest.begin(), by_rest.end(), [](const Sequence* a, const Sequence* b) { return a->admission < b->admission; });
  std::rotate(by_rest.begin(), oldest, oldest + 1);
  int64_t left = config_.prefill_tokens;
  std::vector<Reader::Piece> out;
  for (std::size_t i = 0; i < by_rest.size(); ++i) {
    if (left <= 0) break;
    const Sequence& s = *by_rest[i];
    const auto others = static_cast<int64_t>(by_rest.size() - i);
    int64_t n = std::min({s.target() - s.read, std::max(least_share, left / others), left});
    if (config_.strict) n = std::min(n, strict_piece);
    n = cache_.stop_before(s.read, n);
    if (reader_.whole_prefix()) n = s.target() - s.read;
    left -= n;
    out.push_back(
        {{s.row, s.read, std::span(s.ids).subspan(static_cast<std::size_t>(s.read), static_cast<std::size_t>(n))},
         s.request().prompt_logprobs && !s.live->told_prompt});
  }
  return out;
}

void Scheduler::prefill() {
  std::vector<Sequence*> readers;
  for (const SequencePtr& s : running_)
    if (s->prefilling()) readers.push_back(s.get());
  if (!readers.empty()) read(pieces(readers), readers);
  std::vector<Sequence*> all;  // who came first is told first; a fork adds to what runs
  for (const SequencePtr& s : running_) all.push_back(s.get());
  for (Sequence* s : all)
    if (s->row >= 0 && !s->prefilling() && !s->live->told_prompt) prompt_read(*s);
}

void Scheduler::read(const std::vector<Reader::Piece>& plan, const std::vector<Sequence*>& readers) {
  std::vector<Sequence*> of;
  for (const Reader::Piece& piece : plan)
    of.push_back(
        *std::find_if(readers.begin(), readers.end(), [&](const Sequence* s) { return s->row == piece.reading.row; }));
  reader_.read(plan, [&](std::size_t i, int64_t first, const at::Tensor& logits) {
    take_prompt_logits(*of[i], plan[i].reading.held + first, logits);
  });
  for (std::size_t i = 0; i < plan.size(); ++i) {
    Sequence& s = *of[i];
    const auto n = static_cast<int64_t>(plan[i].reading.ids.size());
    s.read += n;
    counts_.prompt_tokens += static_cast<uint64_t>(n);
    if (!s.prefilling() || cache_.on_ladder(s.read)) keep(s);
  }
}

// Logits of prompt tokens first, first + 1, ...: each tells of the token after it.
void Scheduler::take_prompt_logits(Sequence& s, int64_t first, const at::Tensor& logits) {
  const at::Tensor host =
      logits.narrow(1, 0, std::min(vocabulary_, logits.size(1))).to(at::kCPU, at::kFloat).contiguous();
  const auto width = static_cast<std::size_t>(host.size(1));
  for (int64_t i = 0; i < host.size(0) && first + i + 1 < s.prompt(); ++i)
    s.live->prompt_top.push_back(told({host.const_data_ptr<float>() + static_cast<std::size_t>(i) * width, width},
                                      s.ids[static_cast<std::size_t>(first + i + 1)],
                                      std::max<int64_t>(0, s.request().top_logprobs)));
}

void Scheduler::prompt_read(Sequence& s) {
  Live& live = *s.live;
  live.told_prompt = true;
  if (live.visit) {
    live.visit(s.row);
    return finish(s, Finish::length);
  }
  EngineEvent event;
  event.kind = EngineEvent::Kind::prompt;
  event.reused = live.reused;
  event.prompt_top = std::move(live.prompt_top);
  outlet_.tell(live, event);
  if (live.request.choices > 1) fork(s);
  if (live.request.max_tokens == 0) finish(s, Finish::length);
}

// The other choices start as copies of the first; those that find no room now read the prompt later.
void Scheduler::fork(Sequence& leader) {
  std::vector<SequencePtr> started;
  for (auto at = waiting_.begin(); at != waiting_.end();) {
    Sequence& s = **at;
    if (s.live != leader.live || !memory_.fits(s.size())) {
      ++at;
      continue;
    }
    const int64_t row = memory_.take_row();
    if (row < 0) break;
    if (!memory_.grow(row, s.size())) {
      memory_.free_row(row);
      break;
    }
    reader_.store().copy_row(leader.row, row, leader.read);
    s.row = row, s.read = leader.read, s.admission = ++admissions_;
    started.push_back(std::move(*at));
    at = waiting_.erase(at);
  }
  for (SequencePtr& s : started) running_.push_back(std::move(s));
}

}  // namespace rattan::infer
