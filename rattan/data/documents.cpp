#include "rattan/data/documents.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "rattan/base/error.h"

namespace rattan {
namespace documents_file {

constexpr std::size_t kChunk = 1 << 18;
constexpr std::size_t kLongestWhole = std::size_t{64} << 20;  // of a document that cannot be cut
constexpr std::size_t kLongestLine = std::size_t{64} << 20;   // of a JSON line

bool blank(std::string_view text) { return text.find_first_not_of(" \t\r") == std::string_view::npos; }

}  // namespace documents_file

std::string_view item_text(const TextPortion& portion, const TextPortion::Item& item, const InputOptions& options,
                           std::string& storage) {
  using nlohmann::json;
  std::string_view text = std::string_view(portion.text).substr(item.begin, item.size);
  if (item.line == 0) return text;
  json value;
  try {
    value = json::parse(text);
  } catch (const json::exception& error) {
    std::string_view said = error.what();
    fail_input("{}:{}: not a JSON value: {}", portion.file, item.line, said.substr(said.find("] ") + 2));
  }
  require(value.is_object(), "{}:{}: expected a JSON object with a field \"{}\"", portion.file, item.line,
          options.field);
  auto field = value.find(options.field);
  if (field == value.end()) {
    std::string names;
    for (const auto& [name, ignored] : value.items()) names += (names.empty() ? "" : ", ") + name;
    fail_input("{}:{}: there is no field \"{}\"; it has: {} (choose with --field)", portion.file, item.line,
               options.field, names.empty() ? "none" : names);
  }
  require(field->is_string(), "{}:{}: the field \"{}\" is not a string", portion.file, item.line, options.field);
  storage = std::move(field->get_ref<std::string&>());
  return storage;
}

DocumentReader::DocumentReader(std::vector<std::string> files, InputOptions options,
                               std::function<std::size_t(std::string_view)> safe_cut, std::size_t portion_bytes)
    : files_(std::move(files)),
      options_(std::move(options)),
      safe_cut_(std::move(safe_cut)),
      portion_bytes_(portion_bytes) {}

DocumentReader::~DocumentReader() = default;

bool DocumentReader::next(TextPortion& portion) {
  portion.items.clear();
  portion.text.clear();
  portion.text.swap(carried_);
  begin_ = 0;
  wanted_ = portion_bytes_;
  for (;;) {
    if (!source_ && !open_next()) return false;
    portion.file = file_;
    while (source_) {
      if (at_ == chunk_.size() && !refill())
        end_of_file(portion);
      else
        consume(portion);
      if (portion.text.size() >= wanted_ && hand_over(portion)) return true;
    }
    if (!portion.items.empty()) return true;
  }
}

bool DocumentReader::open_next() {
  if (next_file_ == files_.size()) return false;
  file_ = files_[next_file_++];
  json_ = input_kind(file_, options_) == "jsonl";
  source_ = open_bytes(file_);
  chunk_.clear();
  at_ = 0;
  line_ = 0;
  within_line_ = line_break_due_ = false;
  return true;
}

// Reads on, keeping what was not used yet.
bool DocumentReader::refill() {
  chunk_.erase(0, at_);
  at_ = 0;
  std::size_t kept = chunk_.size();
  chunk_.resize(kept + documents_file::kChunk);
  std::size_t n = source_->read(chunk_.data() + kept, documents_file::kChunk);
  chunk_.resize(kept + n);
  bytes_read_ += static_cast<int64_t>(n);
  return n > 0;
}

void DocumentReader::consume(TextPortion& portion) {
  if (json_ || options_.documents == "lines") return consume_line(portion);
  if (options_.documents == "blank") return consume_paragraph(portion);
  portion.text.append(chunk_, at_);
  at_ = chunk_.size();
  open_ = true;
}

void DocumentReader::consume_line(TextPortion& portion) {
  std::size_t end = chunk_.find('\n', at_);
  bool whole = end != std::string::npos;
  portion.text.append(chunk_, at_, (whole ? end : chunk_.size()) - at_);
  at_ = whole ? end + 1 : chunk_.size();
  open_ = true;
  if (!whole) return;
  ++line_;
  end_document(portion);
}

void DocumentReader::consume_paragraph(TextPortion& portion) {
  std::size_t end = chunk_.find('\n', at_);
  bool whole = end != std::string::npos;
  std::string_view line = std::string_view(chunk_).substr(at_, whole ? end - at_ : std::string::npos);
  if (!within_line_ && line == "\r" && !whole) {  // perhaps half of a blank line's end
    if (refill()) return;
    whole = true;
  }
  at_ = end != std::string::npos ? end + 1 : chunk_.size();
  if (!within_line_ && whole && (line.empty() || line == "\r")) {
    line_break_due_ = false;
    if (open_) end_document(portion);
    return;
  }
  if (!within_line_ && line_break_due_) portion.text += '\n';
  portion.text += line;
  open_ = true;
  within_line_ = !whole;
  line_break_due_ = whole;
}

void DocumentReader::end_of_file(TextPortion& portion) {
  source_.reset();
  if (open_) {
    ++line_;
    end_document(portion);
  } else if (!json_ && options_.documents == "file") {
    ++empty_;
  }
}

void DocumentReader::end_document(TextPortion& portion) {
  std::size_t size = portion.text.size() - begin_;
  bool nothing = first_ && (json_ ? documents_file::blank(std::string_view(portion.text).substr(begin_)) : size == 0);
  if (nothing) {
    if (!json_) ++empty_;
    portion.text.resize(begin_);
  } else {
    portion.items.push_back({begin_, size, first_, true, json_ ? line_ : 0});
  }
  begin_ = portion.text.size();
  open_ = false;
  first_ = true;
}

// The portion is large enough: false if it has to grow because its one document cannot be cut yet.
bool DocumentReader::hand_over(TextPortion& portion) {
  using namespace documents_file;
  if (!open_) return !portion.items.empty();
  std::size_t size = portion.text.size() - begin_;
  if (!portion.items.empty()) {
    carried_ = portion.text.substr(begin_);
    portion.text.resize(begin_);
    return true;
  }
  if (json_) {
    require(size <= kLongestLine, "{}:{}: a JSON line of over {} MiB; put so long a text into a .txt file", file_,
            line_ + 1, kLongestLine >> 20);
  } else if (std::size_t cut = safe_cut_(portion.text); cut > 0) {
    carried_ = portion.text.substr(cut);
    portion.text.resize(cut);
    portion.items.push_back({0, cut, first_, false, 0});
    first_ = false;
    return true;
  } else {
    require(size <= kLongestWhole,
            "{}: a document of over {} MiB, and this tokenizer must have documents whole (it changes the text); divide "
            "it, or use a lossless tokenizer",
            file_, kLongestWhole >> 20);
  }
  wanted_ = 2 * portion.text.size();
  return false;
}

}  // namespace rattan
