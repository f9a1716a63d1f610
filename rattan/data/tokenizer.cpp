#include "rattan/data/tokenizer.h"

#include "rattan/base/error.h"
#include "rattan/base/files.h"

namespace rattan {
namespace tokenizer_file {

namespace fs = std::filesystem;

// The known files, in the order in which a folder is searched. A new format is a line here.
struct Format {
  const char* file;       // its name in a folder
  const char* extension;  // of a file given by itself
  std::unique_ptr<Tokenizer> (*load)(const fs::path&);
};

std::unique_ptr<Tokenizer> load_sentencepiece(const fs::path& path) {
  return sentencepiece_tokenizer(read_file(path), path.string());
}

std::unique_ptr<Tokenizer> load_bytes(const fs::path& path) {
  std::string content = read_file(path);
  require(content == "bytes\n", "{}: expected the single line \"bytes\"; this is not a bytes tokenizer", path.string());
  return bytes_tokenizer();
}

std::unique_ptr<Tokenizer> refuse_json(const fs::path& path) {
  fail_input(
      "{}: tokenizer.json is not read yet; give a sentencepiece .model file of the same vocabulary, or "
      "the word \"bytes\"",
      path.string());
}

const Format kFormats[] = {
    {"tokenizer.model", ".model", load_sentencepiece},
    {"tokenizer.bytes", ".bytes", load_bytes},
    {"tokenizer.json", ".json", refuse_json},
};

}  // namespace tokenizer_file

std::vector<int32_t> Tokenizer::encode(std::string_view text) const {
  std::vector<int32_t> ids;
  encoder()->encode(text, ids);
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids) const {
  std::string text;
  bool first = true;
  for (int32_t id : ids) {
    text += decode_piece(id, first);
    first = first && decode_piece(id).empty();
  }
  return text;
}

std::string_view Tokenizer::decode_piece(int32_t id, bool first) const {
  require(id >= 0 && static_cast<std::size_t>(id) < bytes_.size(),
          "token id {} is out of range: the vocabulary has ids 0 to {}", id, static_cast<int64_t>(bytes_.size()) - 1);
  std::string_view piece = bytes_[static_cast<std::size_t>(id)];
  if (first && strip_blank_ && piece.starts_with(' ')) piece.remove_prefix(1);
  return piece;
}

void Tokenizer::set_pieces(std::vector<std::string> bytes, bool strip_blank) {
  bytes_ = std::move(bytes);
  strip_blank_ = strip_blank;
}

std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& path) {
  using namespace tokenizer_file;
  std::error_code error;
  if (fs::is_directory(path, error)) {
    for (const Format& format : kFormats)
      if (fs::exists(path / format.file, error)) return format.load(path / format.file);
    fail_input("{}: no tokenizer in this folder; expected tokenizer.model or tokenizer.bytes", path.string());
  }
  if (path == "bytes" && !fs::exists(path, error)) return bytes_tokenizer();
  require(fs::exists(path, error),
          "{}: no such file; give a tokenizer file, a folder that holds one, or the word \"bytes\"", path.string());
  for (const Format& format : kFormats)
    if (path.extension() == format.extension) return format.load(path);
  fail_input(
      "{}: the kind of tokenizer is not known from this name; expected a sentencepiece *.model or a "
      "tokenizer.bytes file",
      path.string());
}

void require_same_vocabulary(const std::string& have, const std::string& want, const std::string& what) {
  require(have == want,
          "{}: made with another vocabulary (its tokenizer is {}, this one is {}); use the tokenizer it was made "
          "with, or pack the data again",
          what, want, have);
}

}  // namespace rattan
