// The scheduler's guessing: several tokens of a sequence in one call of the model.
//
// The newest token is read together with guesses of what follows. The logits behind each choose the token that they
// would have chosen one by one, so as long as it is the one guessed, the next logits are right too. What was read
// beyond is taken back: where the state resumes, by forgetting it; else the fields that were overwritten are put back
// and the tokens found are read again with the next step's prompts.
#include <algorithm>

#include "rattan/infer/engine/lookup.h"
#include "rattan/infer/engine/scheduler.h"
#include "rattan/infer/engine/undo.h"

namespace rattan::infer {

std::vector<int32_t> Scheduler::guess(const Sequence& s) const {
  if (config_.lookup == 0 || s.request().grammar || reader_.whole_prefix()) return {};
  const int64_t left = std::min(s.request().max_tokens - s.made(), config_.max_context - s.size());
  const int64_t most = std::min(config_.lookup, left - 1);
  return lookup(s.ids, cache_.stop_before(s.read, most + 1) - 1);
}

void Scheduler::decode_guessing(const std::vector<std::pair<Sequence*, std::vector<int32_t>>>& guessed) {
  std::vector<std::vector<int32_t>> texts;
  std::vector<Reader::Piece> pieces;
  std::vector<Undo> undo;
  std::vector<std::vector<NextToken>> made(guessed.size());
  std::vector<bool> right(guessed.size(), true);  // so far
  for (const auto& [s, guess] : guessed) {
    texts.push_back({s->ids.back()});
    texts.back().insert(texts.back().end(), guess.begin(), guess.end());
    undo.emplace_back(reader_.store(), s->row, s->read, std::ssize(texts.back()));
  }
  for (std::size_t i = 0; i < guessed.size(); ++i)
    pieces.push_back({{guessed[i].first->row, guessed[i].first->read, texts[i]}, true});
  // Logits come in the order of a piece's tokens; those behind a wrong guess are of no use.
  reader_.read(pieces, [&](std::size_t i, int64_t first, const at::Tensor& logits) {
    Sequence& s = *guessed[i].first;
    const auto& guess = guessed[i].second;
    const at::Tensor host = logits.to(at::kCPU);
    for (int64_t k = 0; k < host.size(0) && right[i]; ++k) {
      const int64_t at = first + k;
      const std::size_t known = s.ids.size();
      s.ids.insert(s.ids.end(), guess.begin(), guess.begin() + at);
      made[i].push_back(std::move(next_tokens({&s}, {host.narrow(0, k, 1), {}, {}}, vocabulary_).front()));
      s.ids.resize(known);
      const NextToken& next = made[i].back();
      right[i] = at < std::ssize(guess) && next.error.empty() && next.choice.id == guess[static_cast<std::size_t>(at)];
    }
  });
  for (std::size_t i = 0; i < guessed.size(); ++i) {
    Sequence& s = *guessed[i].first;
    const auto found = std::ssize(made[i]);
    counts_.guessed += guessed[i].second.size();
    counts_.guesses_right += static_cast<uint64_t>(found - 1);
    s.read = found == std::ssize(texts[i]) ? s.read + found : undo[i].back_to(s.read + found);
    for (std::size_t k = 0; k < made[i].size() && s.row >= 0; ++k) accept(s, std::move(made[i][k]));
  }
}

}  // namespace rattan::infer
