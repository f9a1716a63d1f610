#include "rattan/infer/grammar/vocabulary.h"

#include <algorithm>
#include <bitset>

#include "rattan/base/error.h"

namespace rattan::infer {
namespace vocabulary_file {

bool whole_characters(std::string_view piece) {
  std::size_t at = 0;
  while (at < piece.size())
    if (next_code(piece, at) < 0) return false;
  return true;
}

CodeSet characters_of(const std::vector<std::string>& pieces) {
  std::vector<CodeSet::Range> found;
  for (const std::string& piece : pieces) {
    if (piece.size() > 4) continue;
    std::size_t at = 0;
    const int32_t code = next_code(piece, at);
    if (code >= 0 && at == piece.size()) found.emplace_back(code, code);
  }
  return CodeSet(std::move(found));
}

}  // namespace vocabulary_file

Vocabulary::Vocabulary(const Tokenizer& tokenizer) : end_(tokenizer.eos()) {
  using namespace vocabulary_file;
  require(end_ >= 0, "this vocabulary has no end token, so no text of a given form could end");
  std::bitset<256> bytes;
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    pieces_.emplace_back(tokenizer.decode_piece(id));
    if (pieces_.back().size() == 1) bytes.set(static_cast<uint8_t>(pieces_.back()[0]));
  }
  writable_ = bytes.all() ? CodeSet::all() : characters_of(pieces_);

  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    const std::string& piece = pieces_[static_cast<std::size_t>(id)];
    // Control tokens add no bytes. Pieces are short; one of 64 KiB is no word.
    if (piece.empty() || piece.size() > UINT16_MAX || id == end_) continue;
    if (bytes.all() || whole_characters(piece)) ids_.push_back(id);
  }
  std::sort(ids_.begin(), ids_.end(), [&](int32_t a, int32_t b) {
    const int order = piece(a).compare(piece(b));
    return order < 0 || (order == 0 && a < b);
  });

  std::vector<std::size_t> path;  // steps of the piece before
  std::string_view before;
  for (std::size_t i = 0; i < ids_.size(); ++i) {
    const std::string& now = piece(ids_[i]);
    longest_ = std::max(longest_, now.size());
    std::size_t same = 0;
    while (same < before.size() && same < now.size() && before[same] == now[same]) ++same;
    for (; path.size() > same; path.pop_back()) steps_[path.back()].behind = static_cast<int32_t>(steps_.size());
    for (std::size_t at = same; at < now.size(); ++at) {
      path.push_back(steps_.size());
      steps_.push_back({.byte = static_cast<uint8_t>(now[at]),
                        .depth = static_cast<uint16_t>(at),
                        .first = static_cast<int32_t>(i),
                        .last = static_cast<int32_t>(i)});
    }
    steps_[path.back()].last = static_cast<int32_t>(i + 1);
    before = now;
  }
  for (; !path.empty(); path.pop_back()) steps_[path.back()].behind = static_cast<int32_t>(steps_.size());
}

}  // namespace rattan::infer
