// rattan tokenizer train|encode|decode|info
#include "rattan/data/tokenizer.h"

#include <unistd.h>

#include <charconv>
#include <chrono>
#include <cstdio>
#include <deque>
#include <memory>
#include <nlohmann/json.hpp>

#include "rattan/base/error.h"
#include "rattan/base/files.h"
#include "rattan/cli/input_flags.h"
#include "rattan/data/tokenizer_training.h"
#include "rattan/data/utf8.h"

namespace rattan::cli {
namespace tokenizer_file {

namespace fs = std::filesystem;
using nlohmann::json;

struct TrainFlags {
  std::vector<std::string> inputs;
  std::string out;
  InputOptions input;
  TokenizerTraining training;
  int64_t holdout_last = 0;
  bool json = false;
};

struct UseFlags {
  std::string tokenizer, file = "-", text, ids;
  bool has_text = false, has_ids = false, pieces = false, json = false;
};

bool valid_utf8(std::string_view text) {
  while (!text.empty()) {
    std::size_t n = utf8_length(text);
    if (n == 0) return false;
    text.remove_prefix(n);
  }
  return true;
}

std::string hex(std::string_view bytes) {
  std::string text;
  for (char c : bytes) text += fmt::format("{:02x}", static_cast<unsigned char>(c));
  return text;
}

void write_stdout(std::string_view bytes) {
  bool written = std::fwrite(bytes.data(), 1, bytes.size(), stdout) == bytes.size() && std::fflush(stdout) == 0;
  if (!written) fail("standard output: cannot write");
}

std::string read_all(const std::string& path) {
  auto source = open_bytes(path);
  std::string content;
  for (;;) {
    std::size_t have = content.size();
    content.resize(have + (1 << 18));
    std::size_t n = source->read(content.data() + have, 1 << 18);
    content.resize(have + n);
    if (n == 0) return content;
  }
}

// What a text can be cut at for training: words stay whole.
std::size_t word_cut(std::string_view text) {
  for (std::size_t at = text.size(); at > 0; --at) {
    if (text[at - 1] == '\n') return at;
    if (at < text.size() && text[at] == ' ' && text[at - 1] != ' ') return at;
  }
  return utf8_complete(text);
}

fs::path model_path(const std::string& out) {
  fs::path path = out;
  if (path.extension() == ".model") return path;
  std::error_code error;
  fs::create_directories(path, error);
  require(!error, "{}: cannot make this folder: {}", out, error.message());
  return path / "tokenizer.model";
}

// Feeds all documents but the last `holdout` ones; returns how many.
int64_t feed(const TrainFlags& flags, TokenizerTrainer& trainer) {
  constexpr std::size_t kMostHeld = std::size_t{512} << 20;
  DocumentReader reader(find_inputs(flags.inputs, flags.input).paths, flags.input, word_cut);
  auto holdout = static_cast<std::size_t>(flags.holdout_last);
  std::deque<std::string> held;
  std::size_t held_bytes = 0;
  int64_t documents = 0;
  TextPortion portion;
  std::string storage;
  while (reader.next(portion)) {
    for (const auto& item : portion.items) {
      std::string_view text = item_text(portion, item, flags.input, storage);
      if (item.line > 0 && text.empty()) continue;
      documents += item.first;
      if (holdout == 0) {
        trainer.add(text);
        continue;
      }
      if (item.first) held.emplace_back();
      held.back() += text;
      held_bytes += text.size();
      require(held_bytes <= kMostHeld, "the last {} documents have over {} MiB; hold out fewer", holdout,
              kMostHeld >> 20);
      if (held.size() <= holdout) continue;
      trainer.add(held.front());
      held_bytes -= held.front().size();
      held.pop_front();
    }
  }
  return std::max<int64_t>(0, documents - flags.holdout_last);
}

void train(const TrainFlags& flags) {
  require(flags.holdout_last >= 0, "--holdout-last must be 0 or more, got {}", flags.holdout_last);
  auto start = std::chrono::steady_clock::now();
  TokenizerTrainer trainer(flags.training);
  int64_t documents = feed(flags, trainer);
  require(trainer.bytes() > 0, "the input has no text to learn a vocabulary from{}",
          flags.holdout_last > 0 ? " (all of it is held out)" : "");
  std::string model = trainer.train();
  auto tokenizer = sentencepiece_tokenizer(model, "the trained model");
  fs::path path = model_path(flags.out);
  write_file(path, model);
  double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (flags.json)
    return print_json({{"path", path.string()},
                       {"type", flags.training.type},
                       {"vocab_size", tokenizer->vocab_size()},
                       {"fingerprint", tokenizer->fingerprint()},
                       {"documents", documents},
                       {"bytes", trainer.bytes()},
                       {"seconds", seconds}});
  fmt::print(stderr, "{}: {} pieces ({}) from {} documents, {} bytes, in {:.1f} s\n", path.string(),
             tokenizer->vocab_size(), flags.training.type, documents, trainer.bytes(), seconds);
}

void encode(const UseFlags& flags) {
  auto tokenizer = load_tokenizer(flags.tokenizer);
  std::string text = flags.has_text ? flags.text : read_all(flags.file);
  std::vector<int32_t> ids = tokenizer->encode(text);
  if (flags.json) {
    json pieces = json::array();
    for (int32_t id : ids) pieces.push_back(tokenizer->piece_name(id));
    return print_json({{"ids", ids}, {"pieces", pieces}, {"tokens", ids.size()}, {"bytes", text.size()}});
  }
  std::string line;
  for (std::size_t i = 0; i < ids.size(); ++i)
    line += flags.pieces ? tokenizer->piece_name(ids[i]) + "\n" : fmt::format("{}{}", i ? " " : "", ids[i]);
  write_stdout(flags.pieces ? line : line + "\n");
}

std::vector<int32_t> parse_ids(std::string_view text, const std::string& source) {
  std::vector<int32_t> ids;
  constexpr std::string_view kBetween = " \t\r\n,[]";
  for (std::size_t at = 0; (at = text.find_first_not_of(kBetween, at)) != std::string_view::npos;) {
    std::size_t end = std::min(text.find_first_of(kBetween, at), text.size());
    int32_t id = 0;
    auto [rest, error] = std::from_chars(text.data() + at, text.data() + end, id);
    require(error == std::errc() && rest == text.data() + end,
            "{}: expected token ids (integers, separated by blanks or commas), got \"{}\"", source,
            text.substr(at, std::min<std::size_t>(end - at, 40)));
    ids.push_back(id);
    at = end;
  }
  return ids;
}

void decode(const UseFlags& flags) {
  auto tokenizer = load_tokenizer(flags.tokenizer);
  std::vector<int32_t> ids =
      flags.has_ids ? parse_ids(flags.ids, "--ids") : parse_ids(read_all(flags.file), flags.file);
  std::string text = tokenizer->decode(ids);
  if (!flags.json) return write_stdout(text);
  json document = {{"text", text}, {"tokens", ids.size()}, {"bytes", text.size()}};
  if (!valid_utf8(text)) document["hex"] = hex(text);  // the text then has replacement characters
  print_json(document);
}

void info(const UseFlags& flags) {
  auto tokenizer = load_tokenizer(flags.tokenizer);
  json document = {{"kind", tokenizer->kind()},         {"vocab_size", tokenizer->vocab_size()},
                   {"bos", tokenizer->bos()},           {"eos", tokenizer->eos()},
                   {"lossless", tokenizer->lossless()}, {"fingerprint", tokenizer->fingerprint()}};
  if (flags.pieces)
    for (int32_t id = 0; id < tokenizer->vocab_size(); ++id) document["pieces"].push_back(tokenizer->piece_name(id));
  if (flags.json) return print_json(document);
  fmt::print(
      "kind         {}\nvocabulary   {} pieces\nbegin, end   {}, {} (-1: none)\nlossless     {}\nfingerprint  {}\n",
      tokenizer->kind(), tokenizer->vocab_size(), tokenizer->bos(), tokenizer->eos(),
      tokenizer->lossless() ? "yes" : "no (it changes the text; decode may differ from the original)",
      tokenizer->fingerprint());
  if (!flags.pieces) return;
  for (int32_t id = 0; id < tokenizer->vocab_size(); ++id) fmt::print("{}\t{}\n", id, tokenizer->piece_name(id));
}

void declare_train(CLI::App& verb) {
  auto flags = std::make_shared<TrainFlags>();
  verb.add_option("input", flags->inputs, "files, folders, or - for standard input")->required();
  verb.add_option("--out", flags->out, "a .model file, or a folder for tokenizer.model")->required();
  verb.add_option("--type", flags->training.type, "bpe or unigram")->capture_default_str();
  verb.add_option("--vocab-size", flags->training.vocab_size, "pieces, with 3 control tokens and 256 bytes")
      ->capture_default_str();
  verb.add_option("--character-coverage", flags->training.character_coverage,
                  "share of the characters' occurrences that get pieces of their own; the rest is written in bytes")
      ->capture_default_str();
  add_input_flags(verb, flags->input);
  verb.add_option("--holdout-last", flags->holdout_last, "leave out the last N documents")->capture_default_str();
  verb.add_flag("--json", flags->json, "print one JSON document");
  verb.callback([flags] { train(*flags); });
}

// A sub-verb that takes a tokenizer.
void declare_use(CLI::App& parent, const char* name, const char* help, void (*work)(const UseFlags&)) {
  CLI::App& verb = *parent.add_subcommand(name, help);
  auto flags = std::make_shared<UseFlags>();
  verb.add_option("tokenizer", flags->tokenizer, "a .model file, a folder with a tokenizer, or the word bytes")
      ->required();
  CLI::Option* text = nullptr;
  CLI::Option* ids = nullptr;
  if (work != info) verb.add_option("file", flags->file, "what to read; - is standard input")->capture_default_str();
  if (work == encode) text = verb.add_option("--text", flags->text, "this text instead of a file")->excludes("file");
  if (work == decode)
    ids = verb.add_option("--ids", flags->ids, "these ids instead of a file, such as 1,2,3")->excludes("file");
  if (work != decode)
    verb.add_flag("--pieces", flags->pieces, work == info ? "list the vocabulary" : "print pieces, one a line");
  verb.add_flag("--json", flags->json, "print one JSON document");
  verb.callback([=] {
    flags->has_text = text && text->count() > 0;
    flags->has_ids = ids && ids->count() > 0;
    work(*flags);
  });
}

void declare(CLI::App& verb) {
  verb.require_subcommand(1);
  declare_train(*verb.add_subcommand("train", "learn a lossless vocabulary from text"));
  declare_use(verb, "encode", "text to token ids", encode);
  declare_use(verb, "decode", "token ids to text", decode);
  declare_use(verb, "info", "what a tokenizer is", info);
}

}  // namespace tokenizer_file

extern const Verb tokenizer_verb;
const Verb tokenizer_verb = {"tokenizer", "train, use and inspect tokenizers", tokenizer_file::declare};

}  // namespace rattan::cli
