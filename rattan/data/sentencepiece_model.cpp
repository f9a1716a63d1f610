#include "rattan/data/sentencepiece_model.h"

#include <cmath>
#include <cstring>
#include <unordered_set>

#include "rattan/base/error.h"
#include "rattan/data/utf8.h"

namespace rattan {
namespace sentencepiece_model_file {

// Fields of a protocol-buffer message, one after another.
class Message {
 public:
  Message(std::string_view content, const std::string& source) : content_(content), source_(source) {}

  int field = 0, wire = 0;
  uint64_t number = 0;    // wire types 0, 1, 5
  std::string_view data;  // wire type 2

  bool next() {
    if (at_ == content_.size()) return false;
    uint64_t key = varint();
    wire = static_cast<int>(key & 7);
    check(key >> 3 > 0 && key >> 3 < (1u << 29));
    field = static_cast<int>(key >> 3);
    switch (wire) {
      case 0:
        number = varint();
        break;
      case 1:
        number = fixed(8);
        break;
      case 5:
        number = fixed(4);
        break;
      case 2: {
        uint64_t size = varint();
        check(size <= content_.size() - at_);
        data = content_.substr(at_, size);
        at_ += size;
        break;
      }
      default:
        check(false);
    }
    return true;
  }
  bool is(int wanted_field, int wanted_wire) const {
    if (field != wanted_field) return false;
    check(wire == wanted_wire);
    return true;
  }

 private:
  void check(bool holds) const {
    require(holds, "{}: not a sentencepiece model, or damaged (at byte {} of a message of {} bytes)", source_, at_,
            content_.size());
  }
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      check(at_ < content_.size());
      auto byte = static_cast<unsigned char>(content_[at_++]);
      value |= uint64_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) return value;
    }
    check(false);
    return 0;
  }
  uint64_t fixed(std::size_t bytes) {
    check(bytes <= content_.size() - at_);
    uint64_t value = 0;
    std::memcpy(&value, content_.data() + at_, bytes);
    at_ += bytes;
    return value;
  }

  std::string_view content_;
  const std::string& source_;
  std::size_t at_ = 0;
};

SentencePieceModel::Piece parse_piece(std::string_view content, const std::string& source) {
  SentencePieceModel::Piece piece;
  Message message(content, source);
  while (message.next()) {
    if (message.is(1, 2)) piece.text = message.data;
    if (message.is(2, 5)) {
      auto bits = static_cast<uint32_t>(message.number);
      std::memcpy(&piece.score, &bits, sizeof bits);
    }
    if (message.is(3, 0)) {
      require(message.number >= 1 && message.number <= 6, "{}: a piece of unknown type {}", source, message.number);
      piece.type = static_cast<SentencePieceModel::Type>(message.number);
    }
  }
  return piece;
}

void parse_trainer(std::string_view content, const std::string& source, SentencePieceModel& model) {
  Message message(content, source);
  while (message.next()) {
    if (message.is(3, 0)) model.algorithm = static_cast<int64_t>(message.number);
    if (message.is(24, 0)) model.suffix_blank = message.number != 0;
    if (message.is(35, 0)) model.byte_fallback = message.number != 0;
    if (message.is(44, 2)) model.unknown_text = message.data;
  }
}

void parse_normalizer(std::string_view content, const std::string& source, SentencePieceModel& model) {
  Message message(content, source);
  while (message.next()) {
    if (message.is(2, 2)) model.character_map = message.data;
    if (message.is(3, 0)) model.dummy_prefix = message.number != 0;
    if (message.is(4, 0)) model.removes_blanks = message.number != 0;
    if (message.is(5, 0)) model.escapes_blanks = message.number != 0;
  }
}

void check_pieces(const SentencePieceModel& model, const std::string& source) {
  using Type = SentencePieceModel::Type;
  require(!model.pieces.empty(), "{}: a sentencepiece model without pieces", source);
  std::unordered_set<std::string_view> seen;
  int64_t unknowns = 0, bytes = 0;
  for (std::size_t id = 0; id < model.pieces.size(); ++id) {
    const auto& piece = model.pieces[id];
    require(!piece.text.empty(), "{}: piece {} is empty", source, id);
    require(std::isfinite(piece.score), "{}: piece {} has the score {}", source, id, piece.score);
    require(seen.insert(piece.text).second, "{}: piece {} is there twice", source, id);
    for (std::size_t i = 0; i < piece.text.size();) {
      std::size_t n = utf8_length(std::string_view(piece.text).substr(i));
      require(n > 0 && piece.text[i] != '\0', "{}: piece {} is not valid UTF-8", source, id);
      i += n;
    }
    unknowns += piece.type == Type::unknown;
    if (piece.type == Type::byte) {
      unsigned value = 256;
      bool fits = piece.text.size() == 6 && std::sscanf(piece.text.c_str(), "<0x%02X>", &value) == 1 && value < 256;
      require(fits && piece.text == fmt::format("<0x{:02X}>", value), "{}: byte piece {} is named {}", source, id,
              piece.text);
      ++bytes;
    }
  }
  require(unknowns == 1, "{}: expected one unknown piece, found {}", source, unknowns);
  require(bytes == (model.byte_fallback ? 256 : 0), "{}: expected {} byte pieces, found {}", source,
          model.byte_fallback ? 256 : 0, bytes);
}

// The rules: u32 size of a double-array trie (Aoe's scheme as Darts-clone stores it), the trie's u32 units, and
// the replacements, each ended by a zero byte. Every step of a walk must stay inside: from unit i the walk goes
// to (i ^ offset) ^ byte, and a leaf's value is a place among the replacements.
void check_character_map(std::string_view map, const std::string& source) {
  if (map.empty()) return;
  auto damaged = [&](bool holds) { require(holds, "{}: the model's normalization rules are damaged", source); };
  damaged(map.size() > 4);
  uint32_t trie_bytes;
  std::memcpy(&trie_bytes, map.data(), 4);
  damaged(trie_bytes >= 1024 && trie_bytes % 1024 == 0 && trie_bytes < map.size() - 4);
  std::vector<uint32_t> units(trie_bytes / 4);
  std::memcpy(units.data(), map.data() + 4, trie_bytes);
  std::string_view replacements = map.substr(4 + trie_bytes);
  damaged(replacements.back() == '\0');
  for (std::size_t i = 0; i < units.size(); ++i) {
    uint32_t unit = units[i];
    if (unit >> 31) continue;
    std::size_t child = i ^ ((unit >> 10) << ((unit & (1u << 9)) >> 6));
    damaged(child < units.size());
    if ((unit >> 8) & 1) damaged((units[child] & 0x7FFFFFFFu) < replacements.size());
  }
}

}  // namespace sentencepiece_model_file

SentencePieceModel parse_sentencepiece_model(std::string_view content, const std::string& source) {
  using namespace sentencepiece_model_file;
  SentencePieceModel model;
  require(!content.empty(), "{}: the file is empty; expected a sentencepiece model", source);
  Message message(content, source);
  while (message.next()) {
    if (message.is(1, 2)) model.pieces.push_back(parse_piece(message.data, source));
    if (message.is(2, 2)) parse_trainer(message.data, source, model);
    if (message.is(3, 2)) parse_normalizer(message.data, source, model);
    if (message.is(5, 2)) model.denormalizes = !message.data.empty();
  }
  require(model.algorithm == 1 || model.algorithm == 2,
          "{}: a sentencepiece model of a kind that is not supported; expected unigram or BPE", source);
  check_pieces(model, source);
  check_character_map(model.character_map, source);
  return model;
}

}  // namespace rattan
