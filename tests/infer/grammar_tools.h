// A made-up vocabulary and random texts under a grammar.
#pragma once
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <queue>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "rattan/base/error.h"
#include "rattan/base/random.h"
#include "rattan/infer/grammar/token_grammar.h"

namespace rattan::infer {

// The given pieces, and </s> as the last id.
class PieceTokenizer : public Tokenizer {
 public:
  explicit PieceTokenizer(std::vector<std::string> pieces) : end_(static_cast<int32_t>(pieces.size())) {
    pieces.emplace_back();
    set_pieces(std::move(pieces));
  }
  std::string kind() const override { return "pieces"; }
  int64_t vocab_size() const override { return end_ + 1; }
  int32_t bos() const override { return -1; }
  int32_t eos() const override { return end_; }
  bool lossless() const override { return false; }
  std::unique_ptr<Encoder> encoder() const override { return nullptr; }
  std::size_t safe_cut(std::string_view) const override { return 0; }
  std::string piece_name(int32_t) const override { return ""; }
  std::string fingerprint() const override { return "pieces"; }
  std::filesystem::path save(const std::filesystem::path& folder) const override { return folder; }

 private:
  int32_t end_;
};

// Printable ASCII and some longer pieces of it: other characters cannot be written.
inline std::vector<std::string> ascii_pieces(Rng& rng) {
  std::vector<std::string> pieces;
  for (char c = ' '; c <= '~'; ++c) pieces.emplace_back(1, c);
  for (const char* word : {"true", "null", "\":", "\", \"", "{\"", "[[", "aa", "ab", "10", "\\\"", "\xC3\xA9 whole"})
    pieces.emplace_back(word);
  const std::string letters = "ab01 ,{}[]\":";
  for (int i = 0; i < 40; ++i) {
    std::string piece;
    for (uint64_t n = 2 + rng.below(3); n > 0; --n) piece += letters[rng.below(letters.size())];
    pieces.push_back(piece);
  }
  return pieces;
}

inline bool is_allowed(const Grammar& grammar, int64_t state, int32_t id) {
  return grammar.allowed(state)[static_cast<std::size_t>(id) / 64] >> (id % 64) & 1;
}

inline std::vector<int32_t> allowed_ids(const Grammar& grammar, int64_t state, int32_t end) {
  std::vector<int32_t> ids;
  for (int32_t id = 0; id < end; ++id)
    if (is_allowed(grammar, state, id)) ids.push_back(id);
  return ids;
}

// The fewest tokens to a state where the text may end; std::runtime_error if none leads there.
inline std::vector<int32_t> way_to_end(const Grammar& grammar, int64_t from, int32_t end) {
  std::map<int64_t, std::pair<int64_t, int32_t>> came{{from, {from, -1}}};
  std::queue<int64_t> left;
  for (left.push(from); !left.empty(); left.pop()) {
    int64_t at = left.front();
    if (is_allowed(grammar, at, end)) {
      std::vector<int32_t> way;
      for (; came[at].second >= 0; at = came[at].first) way.insert(way.begin(), came[at].second);
      return way;
    }
    for (const int32_t id : allowed_ids(grammar, at, end)) {
      const int64_t to = grammar.next(at, id);
      if (came.try_emplace(to, at, id).second) left.push(to);
    }
  }
  throw std::runtime_error("the end cannot be reached");
}

// At most `tokens` random ones, then the shortest way to the end.
inline std::string random_text(const Grammar& grammar, const Tokenizer& tokenizer, int64_t tokens, Rng& rng) {
  const int32_t end = tokenizer.eos();
  std::vector<int32_t> ids;
  int64_t state = grammar.start();
  for (; tokens > 0; --tokens) {
    std::vector<int32_t> may = allowed_ids(grammar, state, end);
    if (may.empty() && !is_allowed(grammar, state, end)) throw std::runtime_error("a state allows nothing");
    if (may.empty() || (is_allowed(grammar, state, end) && rng.below(8) == 0)) break;
    ids.push_back(may[rng.below(may.size())]);
    state = grammar.next(state, ids.back());
  }
  for (const int32_t id : way_to_end(grammar, state, end)) ids.push_back(id);
  return tokenizer.decode(ids);
}

// `make` refuses the first of each pair with an InputError that holds the second.
template <std::size_t n>
void expect_refused(const std::pair<const char*, const char*> (&cases)[n],
                    const std::function<void(const std::string&)>& make) {
  for (const auto& [text, part] : cases) {
    SCOPED_TRACE(text);
    try {
      make(text);
      ADD_FAILURE() << "no error";
    } catch (const InputError& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr(part));
    }
  }
}

// Whether the grammar lets this text through byte by byte; the tokenizer's ids 0 .. 255 are the bytes.
inline bool accepts(const Grammar& grammar, std::string_view text, int32_t end) {
  int64_t state = grammar.start();
  for (const char c : text) {
    const int32_t id = static_cast<uint8_t>(c);
    if (!is_allowed(grammar, state, id)) return false;
    state = grammar.next(state, id);
  }
  return is_allowed(grammar, state, end);
}

}  // namespace rattan::infer
