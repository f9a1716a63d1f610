#include "rattan/serve/token_memory.h"

#include <algorithm>
#include <memory>

#include "rattan/infer/utf8.h"

namespace rattan::serve {

std::optional<std::vector<int32_t>> leading_tokens(std::vector<int32_t> ids, const std::string& text,
                                                   const Tokenizer& tokenizer) {
  constexpr int most = 32;  // tokens to leave out
  for (int tries = 0; tries <= most; ++tries) {
    std::string bytes;
    for (const int32_t id : ids) bytes += tokenizer.decode_piece(id);
    const std::string shown = infer::valid_utf8(bytes);
    if (shown == text) {
      // Tokens that add nothing would stand between this answer and what follows.
      while (!ids.empty() && tokenizer.decode_piece(ids.back()).empty()) ids.pop_back();
      return ids;
    }
    if (ids.empty() || shown.size() < text.size()) break;
    ids.pop_back();
  }
  return std::nullopt;
}

void TokenMemory::remember(const std::string& text, std::vector<int32_t> tokens) {
  Entry entry{text, std::move(tokens)};
  if (size_of(entry) > max_tokens_) return;
  const std::lock_guard lock(mutex_);
  if (const auto found = by_text_.find(text); found != by_text_.end()) {
    const auto at = found->second;
    held_ -= size_of(*at);
    by_text_.erase(found);
    entries_.erase(at);
  }
  held_ += size_of(entry);
  entries_.push_front(std::move(entry));
  by_text_.emplace(entries_.front().text, entries_.begin());
  while (held_ > max_tokens_) {
    held_ -= size_of(entries_.back());
    by_text_.erase(entries_.back().text);
    entries_.pop_back();
  }
}

// What is remembered ends with an answer, and the text goes on with what the template puts behind it. So each end of a
// remembered text is looked for inside the piece in which it may lie: all remembered lengths that fall into it.
std::vector<int32_t> TokenMemory::encode(const std::vector<std::string>& pieces, const Tokenizer& tokenizer) {
  std::string whole;
  std::vector<std::size_t> ends;
  for (const std::string& piece : pieces) ends.push_back((whole += piece).size());

  std::vector<int32_t> tokens;
  std::size_t known = 0;
  {
    const std::lock_guard lock(mutex_);
    auto best = entries_.end();
    for (auto at = entries_.begin(); at != entries_.end(); ++at)
      if (at->text.size() > known && whole.starts_with(at->text)) best = at, known = at->text.size();
    if (best != entries_.end()) {
      tokens = best->tokens;
      entries_.splice(entries_.begin(), entries_, best);
    }
  }
  const std::unique_ptr<Encoder> encoder = tokenizer.encoder();
  std::size_t begin = 0;
  for (const std::size_t end : ends) {
    const std::size_t from = std::max(begin, known);
    const std::string_view piece = from < end ? std::string_view(whole).substr(from, end - from) : "";
    if (!piece.empty()) tokens.empty() ? encoder->encode(piece, tokens) : encoder->encode_more(piece, tokens);
    begin = end;
  }
  return tokens;
}

}  // namespace rattan::serve
