// Tokenizers from sentencepiece .model files.
//
// A model is "direct" if it has byte pieces and does not change the text (no normalization rules, no blanks
// removed). Then this file cuts the text itself, at places that no piece of the vocabulary crosses, and asks
// the library for one word at a time; the library's answer for the whole text is the same sequence. What the
// library would change (invalid UTF-8, NUL, and U+2581, which stands for the blank inside pieces) is written
// with byte pieces. So direct models are lossless, remember words, and encode a text of any length in pieces.
// Other models get the text whole, and may be lossy.
#include <sentencepiece_processor.h>

#include <array>

#include "rattan/base/error.h"
#include "rattan/base/files.h"
#include "rattan/data/checksum.h"
#include "rattan/data/sentencepiece_model.h"
#include "rattan/data/tokenizer.h"
#include "rattan/data/utf8.h"
#include "rattan/data/word_cache.h"

namespace rattan {
namespace sentencepiece_tokenizer_file {

constexpr std::string_view kBlank = "\xE2\x96\x81";  // U+2581
constexpr std::size_t kLongWord = 1 << 16;           // longer stretches without a safe place are cut here
constexpr std::size_t kCachedWord = 64;

// Added to a model, these bytes (field 3 of the message, in it field 3 = 0) switch the dummy prefix off.
constexpr std::string_view kNoDummyPrefix("\x1A\x02\x18\x00", 4);

struct Library {
  sentencepiece::SentencePieceProcessor processor;

  void encode(std::string_view text, std::vector<int32_t>& ids) const {
    std::vector<int> found;
    auto status = processor.Encode(text, &found);
    if (!status.ok()) fail("sentencepiece could not encode a text of {} bytes: {}", text.size(), status.ToString());
    ids.insert(ids.end(), found.begin(), found.end());
  }
};

// Where a direct model's text may be cut.
struct Cuts {
  bool blank_known = false;        // the vocabulary has a piece for the blank
  bool before_blank = true;        // no piece has a blank after something else
  std::array<bool, 128> alone{};   // no longer piece has this character
  std::array<bool, 256> forced{};  // first bytes that are written with byte pieces

  explicit Cuts(const SentencePieceModel& model) {
    alone.fill(true);
    for (const auto& piece : model.pieces) {
      using Type = SentencePieceModel::Type;
      if (piece.type != Type::normal && piece.type != Type::user_defined && piece.type != Type::unused) continue;
      std::string_view text = piece.text;
      blank_known |= text == kBlank && piece.type != Type::unused;
      for (char c : text)
        if (text.size() > 1 && static_cast<unsigned char>(c) < 128) alone[static_cast<unsigned char>(c)] = false;
      bool after_blank = true;
      for (std::size_t i = 0; i < text.size(); ++i) {
        bool blank = text.substr(i).starts_with(kBlank) || text[i] == ' ';
        before_blank &= !blank || after_blank;
        after_blank = blank;
        if (blank && text[i] != ' ') i += kBlank.size() - 1;
      }
    }
    alone[' '] = false;
    forced[0] = true;
    forced[' '] = !blank_known;
  }

  // The length of the item at the start of `text` and whether it is a word for the library (else: bytes).
  struct Item {
    std::size_t size;
    bool word;
  };
  Item next(std::string_view text) const {
    std::size_t size = utf8_length(text);
    if (size == 0) return {1, false};
    if (is_forced(text, size)) return {size, false};
    if (is_alone(text[0])) return {size, true};
    while (size < text.size() && size < kLongWord) {
      unsigned char c = static_cast<unsigned char>(text[size]);
      if (c < 128) {
        if (forced[c] || alone[c]) break;
        if (c == ' ' && before_blank && text[size - 1] != ' ') break;
        ++size;
        continue;
      }
      std::size_t n = utf8_length(text.substr(size));
      if (n == 0 || is_forced(text.substr(size), n)) break;
      size += n;
    }
    return {size, true};
  }

  bool is_alone(char c) const { return static_cast<unsigned char>(c) < 128 && alone[static_cast<unsigned char>(c)]; }

 private:
  bool is_forced(std::string_view text, std::size_t size) const {
    return forced[static_cast<unsigned char>(text[0])] || (size == 3 && text.starts_with(kBlank));
  }
};

// Everything that encoders share.
struct Shared {
  Library library;
  Cuts cuts;
  bool add_blank = false;  // texts start with a blank that is not theirs
  std::array<int32_t, 256> byte_ids{};
  std::array<std::vector<int32_t>, 128> alone_ids;

  explicit Shared(const SentencePieceModel& model) : cuts(model) {}
};

class DirectEncoder final : public Encoder {
 public:
  explicit DirectEncoder(const Shared& shared) : shared_(shared) {}

  void encode(std::string_view text, std::vector<int32_t>& ids) override {
    if (!shared_.add_blank || text.empty()) return encode_more(text, ids);
    std::size_t size = 0;
    prefixed_.assign(1, ' ');
    prefixed_ += text;
    while (size < prefixed_.size()) size += item(std::string_view(prefixed_).substr(size), ids);
  }

  void encode_more(std::string_view text, std::vector<int32_t>& ids) override {
    while (!text.empty()) text.remove_prefix(item(text, ids));
  }

 private:
  std::size_t item(std::string_view text, std::vector<int32_t>& ids) {
    auto [size, word] = shared_.cuts.next(text);
    if (!word) {
      for (char c : text.substr(0, size)) ids.push_back(shared_.byte_ids[static_cast<unsigned char>(c)]);
    } else if (size == 1 && shared_.cuts.is_alone(text[0])) {
      const auto& known = shared_.alone_ids[static_cast<unsigned char>(text[0])];
      ids.insert(ids.end(), known.begin(), known.end());
    } else {
      encode_word(text.substr(0, size), ids);
    }
    return size;
  }

  void encode_word(std::string_view word, std::vector<int32_t>& ids) {
    if (word.size() > kCachedWord) return shared_.library.encode(word, ids);
    std::size_t count = 0;
    if (const int32_t* known = cache_.find(word, count)) {
      ids.insert(ids.end(), known, known + count);
      return;
    }
    std::size_t before = ids.size();
    shared_.library.encode(word, ids);
    cache_.insert(word, std::span(ids).subspan(before));
  }

  const Shared& shared_;
  std::string prefixed_;
  WordCache cache_;
};

class WholeEncoder final : public Encoder {
 public:
  explicit WholeEncoder(const Shared& shared) : shared_(shared) {}
  void encode(std::string_view text, std::vector<int32_t>& ids) override { shared_.library.encode(text, ids); }
  void encode_more(std::string_view, std::vector<int32_t>&) override {
    fail("this tokenizer changes the text and must have it whole; it has no safe cuts");
  }

 private:
  const Shared& shared_;
};

class SentencePieceTokenizer final : public Tokenizer {
 public:
  SentencePieceTokenizer(std::string content, const std::string& source, const SentencePieceModel& model)
      : content_(std::move(content)), shared_(model) {
    direct_ = model.byte_fallback && !model.removes_blanks && model.escapes_blanks && model.character_map.empty() &&
              !(model.suffix_blank && model.dummy_prefix);
    shared_.add_blank = direct_ && model.dummy_prefix;
    auto status =
        shared_.library.processor.LoadFromSerializedProto(direct_ ? content_ + std::string(kNoDummyPrefix) : content_);
    require(status.ok(), "{}: sentencepiece refuses this model: {}", source, status.ToString());
    kind_ = model.algorithm == 1 ? "unigram" : "bpe";
    std::vector<std::string> pieces;
    for (const auto& piece : model.pieces) {
      if (piece.type == SentencePieceModel::Type::byte)
        shared_.byte_ids[byte_of(piece)] = static_cast<int32_t>(pieces.size());
      pieces.push_back(text_of(model, piece));
    }
    set_pieces(std::move(pieces), (model.dummy_prefix || model.removes_blanks) && !model.suffix_blank);
    fingerprint_ = kind_ + ":" + checksum_text(checksum(content_));
    if (!direct_) return;
    for (int c = 1; c < 128; ++c)
      if (shared_.cuts.is_alone(static_cast<char>(c)))
        shared_.library.encode(std::string(1, static_cast<char>(c)), shared_.alone_ids[static_cast<std::size_t>(c)]);
  }

  std::string kind() const override { return kind_; }
  int64_t vocab_size() const override { return shared_.library.processor.GetPieceSize(); }
  int32_t bos() const override { return shared_.library.processor.bos_id(); }
  int32_t eos() const override { return shared_.library.processor.eos_id(); }
  bool lossless() const override { return direct_; }
  std::string fingerprint() const override { return fingerprint_; }

  std::unique_ptr<Encoder> encoder() const override {
    if (direct_) return std::make_unique<DirectEncoder>(shared_);
    return std::make_unique<WholeEncoder>(shared_);
  }

  std::size_t safe_cut(std::string_view text) const override {
    if (!direct_) return 0;
    text = text.substr(0, utf8_complete(text));
    const Cuts& cuts = shared_.cuts;
    // A place whose two neighbors decide it, looked for from the end; only a stretch that is too long for
    // such a place is worth walking through.
    std::size_t lowest = text.size() > kLongWord ? text.size() - kLongWord : 0;
    for (std::size_t at = text.size(); at > lowest; --at) {
      auto before = static_cast<unsigned char>(text[at - 1]);
      if (before < 128 && (cuts.forced[before] || cuts.alone[before])) return at;
      if (at < text.size() && text[at] == ' ' && before != ' ' && cuts.before_blank) return at;
    }
    std::size_t start = 0;
    for (std::size_t at = 0; at < text.size();) {
      Cuts::Item item = cuts.next(text.substr(at));
      start = item.word ? at : at + item.size;
      at += item.size;
    }
    return start;
  }

  std::string piece_name(int32_t id) const override {
    decode_piece(id);
    return shared_.library.processor.IdToPiece(id);
  }

  std::filesystem::path save(const std::filesystem::path& folder) const override {
    std::filesystem::path path = folder / "tokenizer.model";
    write_file(path, content_);
    return path;
  }

 private:
  static std::size_t byte_of(const SentencePieceModel::Piece& piece) {
    return std::stoul(piece.text.substr(3, 2), nullptr, 16);  // <0x2A>
  }

  static std::string text_of(const SentencePieceModel& model, const SentencePieceModel::Piece& piece) {
    using Type = SentencePieceModel::Type;
    if (piece.type == Type::control) return "";
    if (piece.type == Type::unknown) return model.unknown_text;
    if (piece.type == Type::byte) return std::string(1, static_cast<char>(byte_of(piece)));
    std::string text;
    std::string_view rest = piece.text;
    while (!rest.empty()) {
      bool blank = rest.starts_with(kBlank);
      text += blank ? ' ' : rest[0];
      rest.remove_prefix(blank ? kBlank.size() : 1);
    }
    return text;
  }

  std::string content_, kind_, fingerprint_;
  Shared shared_;
  bool direct_ = false;
};

}  // namespace sentencepiece_tokenizer_file

std::unique_ptr<Tokenizer> sentencepiece_tokenizer(std::string model, const std::string& source) {
  SentencePieceModel parsed = parse_sentencepiece_model(model, source);
  require(!parsed.denormalizes, "{}: this model rewrites text when it decodes, which is not supported", source);
  return std::make_unique<sentencepiece_tokenizer_file::SentencePieceTokenizer>(std::move(model), source, parsed);
}

}  // namespace rattan
