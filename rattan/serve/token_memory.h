// The tokens that conversations were made of. A model's answer, encoded again, need not give the tokens that the model
// chose, and a state can be reused only for the very same tokens. So the tokens of every conversation are kept for its
// next turn, which also saves encoding them again. Bounded; the longest unused gives way.
#pragma once
#include <cstdint>
#include <list>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "rattan/data/tokenizer.h"

namespace rattan::serve {

// Of the tokens of an answer those that its text shows: without an end token, or what belongs to a stop string. Nothing
// if the text ends within a token.
std::optional<std::vector<int32_t>> leading_tokens(std::vector<int32_t> ids, const std::string& text,
                                                   const Tokenizer& tokenizer);

class TokenMemory {
 public:
  explicit TokenMemory(std::size_t max_tokens = 4 << 20) : max_tokens_(max_tokens) {}

  // `tokens` decode to `text`.
  void remember(const std::string& text, std::vector<int32_t> tokens);

  // The tokens of the texts one after the other. The longest run of them (with or without the start of the next) that
  // is remembered keeps its tokens; every other piece is encoded by itself.
  std::vector<int32_t> encode(const std::vector<std::string>& pieces, const Tokenizer& tokenizer);

 private:
  struct Entry {
    std::string text;
    std::vector<int32_t> tokens;
  };
  std::size_t size_of(const Entry& entry) const { return entry.tokens.size() + entry.text.size() / 4; }

  const std::size_t max_tokens_;
  std::mutex mutex_;
  std::list<Entry> entries_;  // the latest first
  std::unordered_map<std::string_view, std::list<Entry>::iterator> by_text_;
  std::size_t held_ = 0;
};

}  // namespace rattan::serve
