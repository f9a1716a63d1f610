// Documents out of text files, JSON lines, folders and standard input, in portions of bounded size.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "rattan/data/byte_source.h"

namespace rattan {

struct InputOptions {
  std::string format = "auto";     // auto (by the file's name; text on standard input) | text | jsonl
  std::string documents = "file";  // where text is divided: file | lines | blank (at blank lines)
  std::string field = "text";      // of a JSON line
};

// All files that `inputs` name, folders searched recursively and sorted; in folders only .txt, .jsonl and
// these with .gz or .zst count. InputError if an input is missing or its kind is not known.
struct InputFiles {
  std::vector<std::string> paths;
  int64_t ignored = 0;  // files in folders that are of no known kind
};
// "text" or "jsonl", or "" if the name does not tell.
std::string input_kind(const std::string& path, const InputOptions& options);
InputFiles find_inputs(const std::vector<std::string>& inputs, const InputOptions& options);

// Part of the input: whole documents, or a stretch of one that is too long for one portion.
struct TextPortion {
  struct Item {
    std::size_t begin, size;  // in `text`
    bool first, last;         // whether it starts and ends its document
    int64_t line;             // for JSON lines, which are handed over as they stand; else 0
  };
  std::string text;
  std::vector<Item> items;
  std::string file;  // all items are of one file
};

// The text of one item: itself, or the field of its JSON line. InputError with file and line.
std::string_view item_text(const TextPortion& portion, const TextPortion::Item& item, const InputOptions& options,
                           std::string& storage);

class DocumentReader {
 public:
  // A document longer than a portion is handed over in stretches that end where `safe_cut` says (see
  // Tokenizer::safe_cut); one of over 64 MiB for which it finds no place is an InputError.
  DocumentReader(std::vector<std::string> files, InputOptions options,
                 std::function<std::size_t(std::string_view)> safe_cut, std::size_t portion_bytes = 1 << 20);
  ~DocumentReader();

  bool next(TextPortion& portion);  // false at the end
  int64_t empty_documents() const { return empty_; }
  int64_t bytes_read() const { return bytes_read_; }  // after decompression

 private:
  bool open_next();
  bool refill();
  void consume(TextPortion& portion);
  void consume_line(TextPortion& portion);
  void consume_paragraph(TextPortion& portion);
  void end_of_file(TextPortion& portion);
  void end_document(TextPortion& portion);
  bool hand_over(TextPortion& portion);
  [[noreturn]] void too_long() const;

  std::vector<std::string> files_;
  InputOptions options_;
  std::function<std::size_t(std::string_view)> safe_cut_;
  std::size_t portion_bytes_;
  int64_t empty_ = 0, bytes_read_ = 0;

  // The file being read, and the part of it that was read but not used yet.
  std::size_t next_file_ = 0;
  std::unique_ptr<ByteSource> source_;
  bool json_ = false;
  std::string file_, chunk_;
  std::size_t at_ = 0;
  int64_t line_ = 0;

  // The document being read. What of it is not handed over yet starts at `begin_` of the portion.
  bool open_ = false;  // it has begun
  bool first_ = true;  // none of it was handed over
  bool within_line_ = false, line_break_due_ = false;
  std::size_t begin_ = 0, wanted_ = 0;
  std::string carried_;  // start of the next portion
};

}  // namespace rattan
