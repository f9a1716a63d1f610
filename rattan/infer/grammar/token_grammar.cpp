#include "rattan/infer/grammar/token_grammar.h"

#include "rattan/infer/grammar/json_schema.h"
#include "rattan/infer/grammar/regex.h"

namespace rattan::infer {

TokenGrammar::TokenGrammar(std::shared_ptr<const Vocabulary> vocabulary, const Pattern& pattern)
    : vocabulary_(std::move(vocabulary)), dfa_(make_nfa(pattern, vocabulary_->writable())) {}

const std::vector<uint64_t>& TokenGrammar::allowed(int64_t state) const {
  const std::lock_guard lock(mutex_);
  const auto [at, added] = allowed_.try_emplace(state);  // references into the map outlive its growth
  if (added) at->second = look(static_cast<int32_t>(state));
  return at->second;
}

std::vector<uint64_t> TokenGrammar::look(int32_t state) const {
  std::vector<uint64_t> bits(static_cast<std::size_t>((vocabulary_->size() + 63) / 64), 0);
  auto allow = [&](int32_t id) { bits[static_cast<std::size_t>(id) / 64] |= uint64_t{1} << (id % 64); };
  if (state < 0 || dfa_.ends(state)) allow(vocabulary_->end());
  if (state < 0) return bits;
  std::vector<int32_t> states(vocabulary_->longest() + 1, state);  // after so many bytes of a piece
  const auto& steps = vocabulary_->steps();
  for (std::size_t i = 0; i < steps.size();) {
    const Vocabulary::Step& step = steps[i];
    const int32_t to = dfa_.next(states[step.depth], step.byte);
    if (to < 0) {
      i = static_cast<std::size_t>(step.behind);
      continue;
    }
    states[step.depth + std::size_t{1}] = to;
    for (int32_t k = step.first; k < step.last; ++k) allow(vocabulary_->ids()[static_cast<std::size_t>(k)]);
    ++i;
  }
  return bits;
}

int64_t TokenGrammar::next(int64_t state, int32_t id) const {
  auto at = static_cast<int32_t>(state);
  if (id == vocabulary_->end()) return at;
  if (id < 0 || id >= vocabulary_->size() || vocabulary_->piece(id).empty()) return -1;
  for (const char byte : vocabulary_->piece(id)) {
    if (at < 0) return at;
    at = dfa_.next(at, static_cast<uint8_t>(byte));
  }
  return at;
}

std::shared_ptr<const Grammar> regex_grammar(std::shared_ptr<const Vocabulary> vocabulary, std::string_view regex) {
  return std::make_shared<TokenGrammar>(std::move(vocabulary), parse_regex(regex));
}

std::shared_ptr<const Grammar> schema_grammar(std::shared_ptr<const Vocabulary> vocabulary, std::string_view schema) {
  return std::make_shared<TokenGrammar>(std::move(vocabulary), schema_pattern(schema));
}

std::shared_ptr<const Grammar> json_grammar(std::shared_ptr<const Vocabulary> vocabulary) {
  return std::make_shared<TokenGrammar>(std::move(vocabulary), json_object_pattern());
}

}  // namespace rattan::infer
