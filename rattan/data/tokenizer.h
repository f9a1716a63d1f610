// Text to token ids and back.
//
// Every tokenizer is a fixed map; it holds no state between calls, and all const members may be called from
// several threads at once. A lossless one (all that `rattan tokenizer train` makes) has decode(encode(x)) == x
// for any bytes x: NUL, invalid UTF-8 and the characters that the algorithm uses for itself included.
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace rattan {

// Encodes many texts, remembering the words it met; one a thread.
class Encoder {
 public:
  virtual ~Encoder() = default;
  virtual void encode(std::string_view text, std::vector<int32_t>& ids) = 0;  // appends to `ids`
  // The same for a text that continues an earlier one, cut at a place that Tokenizer::safe_cut gave.
  virtual void encode_more(std::string_view text, std::vector<int32_t>& ids) = 0;
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  virtual std::string kind() const = 0;    // "bytes", "bpe", "unigram", ...
  virtual int64_t vocab_size() const = 0;  // ids are 0 .. vocab_size - 1
  virtual int32_t bos() const = 0;         // begin of text, -1 if there is none
  virtual int32_t eos() const = 0;         // end of document, -1 if there is none
  virtual bool lossless() const = 0;

  // Never adds bos or eos, and never reads one out of the text.
  std::vector<int32_t> encode(std::string_view text) const;
  virtual std::unique_ptr<Encoder> encoder() const = 0;

  // The largest n for which encode(text + rest) equals encode(text[0, n)) followed by encode_more(text[n, ..)
  // + rest) whatever `rest` is; 0 if there is none. `text` starts where a text or an earlier cut does. A text
  // of any length is so encoded in pieces with the tokens of the whole.
  virtual std::size_t safe_cut(std::string_view text) const = 0;

  // The bytes of a text made of these tokens; bos, eos and other control tokens add nothing.
  // InputError for an id out of range.
  std::string decode(std::span<const int32_t> ids) const;
  // The bytes that one token adds to a text; `first` where it is the text's first token that adds any (some
  // vocabularies start every text with a blank that is not part of it). A piece may end within a character:
  // see utf8_complete (utf8.h).
  std::string_view decode_piece(int32_t id, bool first = false) const;
  // For people: the token as the vocabulary writes it.
  virtual std::string piece_name(int32_t id) const = 0;

  // A checksum of all that decides encode and decode, such as "bpe:0123456789abcdef". Models and shards store
  // it and refuse another vocabulary.
  virtual std::string fingerprint() const = 0;
  // Writes the tokenizer's file into `folder` under the name by which load_tokenizer finds it; returns the path.
  virtual std::filesystem::path save(const std::filesystem::path& folder) const = 0;

 protected:
  // What each id adds to a text; `strip_blank`: a text's first token loses one leading blank.
  void set_pieces(std::vector<std::string> bytes, bool strip_blank = false);

 private:
  std::vector<std::string> bytes_;
  bool strip_blank_ = false;
};

// A tokenizer file (by its name: *.model, tokenizer.bytes), a folder that holds one (a model folder, packed
// data), or the word "bytes". InputError if there is none, if it is damaged, or its format is not known.
std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& path);
std::unique_ptr<Tokenizer> bytes_tokenizer();  // ids 0..255 are the bytes, 256 is </s>
// `model`: the content of a sentencepiece .model file; `source` names it in errors.
std::unique_ptr<Tokenizer> sentencepiece_tokenizer(std::string model, const std::string& source);

// InputError unless both are the same vocabulary; `what` ("model runs/a", "shards data/b") stands in the text.
void require_same_vocabulary(const std::string& have, const std::string& want, const std::string& what);

}  // namespace rattan
