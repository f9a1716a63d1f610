#include "rattan/data/tokenizer_training.h"

#include <sentencepiece_trainer.h>

#include <algorithm>

#include "rattan/base/error.h"
#include "rattan/data/utf8.h"

namespace rattan {
namespace tokenizer_training_file {

constexpr std::size_t kMostWords = 4 << 20;     // more different words than this: those seen once are forgotten
constexpr int64_t kMostUnigramBytes = 1 << 30;  // the library counts characters in 32 bits
constexpr std::size_t kLongestSentence = 1 << 13;

// Characters that sentencepiece keeps for itself: U+2581 stands for a blank, U+2585 for the unknown.
bool reserved(std::string_view character) {
  return character == "\xE2\x96\x81" || character == "\xE2\x96\x85" || character == std::string_view("\0", 1);
}

class Sentences final : public sentencepiece::SentenceIterator {
 public:
  explicit Sentences(std::vector<std::string> sentences) : sentences_(std::move(sentences)) {}
  bool done() const override { return at_ == sentences_.size(); }
  void Next() override { ++at_; }
  const std::string& value() const override { return sentences_[at_]; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  std::vector<std::string> sentences_;
  std::size_t at_ = 0;
};

}  // namespace tokenizer_training_file

TokenizerTrainer::TokenizerTrainer(TokenizerTraining config) : config_(std::move(config)) {
  require(config_.type == "bpe" || config_.type == "unigram", "tokenizer type must be bpe or unigram, got {}",
          config_.type);
  require(config_.vocab_size >= 260 && config_.vocab_size <= 1 << 20,
          "a vocabulary has 260 (3 control tokens, 256 bytes, one more) to 1048576 pieces, got {}", config_.vocab_size);
  require(config_.character_coverage >= 0.9 && config_.character_coverage <= 1.0,
          "character coverage must be in [0.9, 1], got {}", config_.character_coverage);
}

void TokenizerTrainer::add(std::string_view text) {
  using namespace tokenizer_training_file;
  bytes_ += static_cast<int64_t>(text.size());
  std::size_t start = 0;
  for (std::size_t at = 0; at < text.size();) {
    std::size_t n = utf8_length(text.substr(at));
    bool ends = n == 0 || text[at] == '\n' || text[at] == '\t' || reserved(text.substr(at, n));
    if (ends || at - start >= kLongestSentence) {
      add_line(text.substr(start, at - start));
      start = ends ? at + std::max<std::size_t>(n, 1) : at;
    }
    at += std::max<std::size_t>(n, 1);
  }
  add_line(text.substr(start));
}

void TokenizerTrainer::add_line(std::string_view line) {
  using namespace tokenizer_training_file;
  if (line.empty()) return;
  if (config_.type == "unigram") {
    characters_held_ += static_cast<int64_t>(line.size());
    require(characters_held_ <= kMostUnigramBytes,
            "a unigram vocabulary is learned from at most 1 GiB of text; give a part of it, or use --type bpe");
    lines_.emplace_back(line);
    return;
  }
  for (std::size_t start = 0; start < line.size();) {
    std::size_t end = start;
    while (end < line.size() && line[end] == ' ') ++end;
    while (end < line.size() && line[end] != ' ') ++end;
    ++words_[std::string(line.substr(start, end - start))];
    start = end;
  }
  if (words_.size() > kMostWords) prune();
}

void TokenizerTrainer::prune() {
  std::erase_if(words_, [](const auto& word) { return word.second == 1; });
}

std::string TokenizerTrainer::train() {
  using namespace tokenizer_training_file;
  require(!words_.empty() || !lines_.empty(), "there is no text to learn a vocabulary from");
  std::vector<std::string> sentences = std::move(lines_);
  for (const auto& [word, count] : words_) sentences.push_back(fmt::format("{}\t{}", word, count));
  if (config_.type == "bpe") std::sort(sentences.begin(), sentences.end());  // the map's order is not fixed
  words_.clear();
  lines_.clear();
  Sentences iterator(std::move(sentences));
  std::string model;
  auto status = sentencepiece::SentencePieceTrainer::Train(
      {
          {"model_type", config_.type},
          {"vocab_size", std::to_string(config_.vocab_size)},
          {"character_coverage", fmt::format("{}", config_.character_coverage)},
          {"input_format", config_.type == "bpe" ? "tsv" : "text"},
          {"normalization_rule_name", "identity"},
          {"add_dummy_prefix", "false"},
          {"remove_extra_whitespaces", "false"},
          {"byte_fallback", "true"},
          {"max_sentence_length", std::to_string(4 * kLongestSentence)},
          {"num_threads", "4"},  // the sums' order depends on it: fixed, whatever the machine
          {"minloglevel", "2"},
      },
      &iterator, &model);
  if (!status.ok()) {
    std::string said = status.ToString();
    if (auto at = said.find("too high"); at != std::string::npos)
      fail_input("this text is too small for {} pieces; sentencepiece says: vocabulary size {}", config_.vocab_size,
                 said.substr(at));
    fail_input("sentencepiece could not learn {} pieces from {} bytes of text: {}", config_.vocab_size, bytes_, said);
  }
  return model;
}

}  // namespace rattan
