#include "rattan/infer/engine/reader.h"

#include <ATen/ops/cat.h>

#include <algorithm>
#include <utility>

#include "rattan/base/error.h"

namespace rattan::infer {
namespace reader_file {

bool same_place(const Slot& a, const Slot& b) { return a.row == b.row && a.position == b.position && a.idle == b.idle; }

// Every slot reads on with what this step chose for it.
bool goes_on(const std::vector<Slot>& slots, const DecodeStep& step) {
  for (std::size_t i = 0; i < slots.size(); ++i)
    if (!same_place(slots[i], step.slots()[i]) || (!slots[i].idle && slots[i].follows != static_cast<int64_t>(i)))
      return false;
  return true;
}

}  // namespace reader_file

Reader::Reader(models::Model& model, int64_t sequences, int64_t capacity, bool graph, bool strict)
    : model_(model),
      device_(device_of(model)),
      graph_(graph),
      strict_(strict),
      serves_steps_(DecodeStep::serves(model)),
      whole_prefix_(model.state_spec().needs_whole_prefix()),
      sequences_(sequences),
      store_(model.state_spec(), sequences + spare_rows(device_), capacity, model.compute, device_) {}

DecodeStep& Reader::step_of(int64_t slots, int64_t choose) {
  std::unique_ptr<DecodeStep>& step = steps_[{slots, choose}];
  if (!step)
    step = std::make_unique<DecodeStep>(
        model_, store_.state(), slots, DecodeStepConfig{.limit = store_.capacity(), .choose = choose, .graph = graph_});
  return *step;
}

Reader::Next Reader::step_once(std::span<const Token> tokens, int64_t wanted, int64_t choose) {
  const auto n = static_cast<int64_t>(tokens.size());
  std::vector<Slot> slots;
  std::vector<int32_t> ids;
  std::vector<kernels::DrawRule> rules;
  for (const Token& t : tokens) {
    slots.push_back({.row = t.row, .position = t.held, .id = t.id, .follows = t.follows});
    rules.push_back(t.rule);
  }
  while (static_cast<int64_t>(slots.size()) < wanted) slots.push_back({.row = sequences_, .idle = true});
  DecodeStep& step = step_of(static_cast<int64_t>(slots.size()), choose);
  const bool follows = std::any_of(tokens.begin(), tokens.end(), [](const Token& t) { return t.follows >= 0; });
  if (follows) {
    if (last_ != &step || !reader_file::goes_on(slots, step)) step.place(slots, last_->chosen());
  } else if (std::equal(slots.begin(), slots.end(), step.slots().begin(), reader_file::same_place)) {
    for (const Slot& s : slots) ids.push_back(s.id);
    step.feed(ids);
  } else {
    step.place(slots);
  }
  if (choose > 0) {
    rules.resize(slots.size());
    step.rule(rules);
    last_ = &step;
  }
  step.run();
  Next next{step.logits().narrow(0, 0, n), {}, {}};
  if (choose > 0) next.ids = step.chosen().narrow(0, 0, n), next.logprobs = step.logprobs().narrow(0, 0, n);
  return next;
}

void Reader::record(int64_t choose) {
  if (!device_.is_cuda() || !graph_ || !serves_steps_) return;
  // The largest first: smaller ones then find room in the memory that it used.
  int64_t last = 0;
  for (int64_t n = strict_ ? strict_rows : sequences_; n > 0; --n) {
    const int64_t slots = strict_ ? strict_rows : slots_for(n, device_);
    if (slots == std::exchange(last, slots)) continue;
    for (int run = 0; run < 2; ++run) step_once({}, slots, choose);  // as it is, then recorded
  }
}

Reader::Next Reader::step(std::span<const Token> tokens, int64_t choose) {
  const std::size_t all = tokens.size();
  if (serves_steps_ && !strict_) return step_once(tokens, slots_for(static_cast<int64_t>(all), device_), choose);
  std::vector<at::Tensor> parts;
  const std::size_t most = !strict_ ? all : serves_steps_ ? static_cast<std::size_t>(strict_rows) : 1;
  for (std::size_t first = 0; first < all; first += most) {
    const auto group = tokens.subspan(first, std::min(most, all - first));
    if (serves_steps_) {
      const int64_t slots = device_.is_cuda() ? strict_rows : static_cast<int64_t>(group.size());
      const at::Tensor logits = step_once(group, slots, 0).logits;
      parts.push_back(all > most ? logits.clone() : logits);  // the next group overwrites it
    } else {
      std::vector<Reading> readings;
      for (const Token& t : group) readings.push_back({t.row, t.held, {&t.id, 1}});
      parts.push_back(logits_of(model_, read_rows(model_, store_.state(), readings)));
    }
  }
  return {parts.size() == 1 ? parts.front() : at::cat(parts), {}, {}};
}

void Reader::read(std::span<const Piece> pieces, const Logits& logits) {
  if (strict_ && !whole_prefix_) return read_strictly(pieces, logits);
  if (strict_ && pieces.size() > 1) {
    for (std::size_t i = 0; i < pieces.size(); ++i)
      read(pieces.subspan(i, 1), [&](std::size_t, int64_t first, const at::Tensor& x) { logits(i, first, x); });
    return;
  }
  std::vector<Reading> readings;
  for (const Piece& piece : pieces) readings.push_back(piece.reading);
  const at::Tensor h = read_rows(model_, store_.state(), readings);
  constexpr int64_t most = 256;  // rows of logits that exist at a time
  int64_t offset = 0;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    const auto n = static_cast<int64_t>(pieces[i].reading.ids.size());
    for (int64_t first = 0; pieces[i].wants_logits && first < n; first += most)
      logits(i, first, logits_of(model_, h.narrow(0, offset + first, std::min(most, n - first))));
    offset += n;
  }
}

void Reader::read_strictly(std::span<const Piece> pieces, const Logits& logits) {
  for (std::size_t at = 0;; ++at) {
    std::vector<Token> tokens;
    std::vector<std::size_t> of;
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      const Reading& r = pieces[i].reading;
      if (at >= r.ids.size()) continue;
      tokens.push_back({r.row, r.held + static_cast<int64_t>(at), r.ids[at]});
      of.push_back(i);
    }
    if (tokens.empty()) return;
    const Next next = step(tokens, 0);
    for (std::size_t k = 0; k < of.size(); ++k)
      if (pieces[of[k]].wants_logits)
        logits(of[k], static_cast<int64_t>(at), next.logits.narrow(0, static_cast<int64_t>(k), 1));
  }
}

}  // namespace rattan::infer
