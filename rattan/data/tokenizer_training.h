// Learning a sentencepiece vocabulary from text.
//
// The model is lossless: no normalization, no blank added or removed, a byte piece for whatever no other piece
// covers. Pieces never span a line break or a tab (each of these is one byte piece), and have blanks only at
// their start. The same text, in whatever portions, gives the same file.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace rattan {

struct TokenizerTraining {
  std::string type = "bpe";            // bpe | unigram
  int64_t vocab_size = 2048;           // <unk>, <s>, </s>, 256 bytes, and what is learned
  double character_coverage = 0.9999;  // share of the characters' occurrences that get pieces of their own
};

class TokenizerTrainer {
 public:
  explicit TokenizerTrainer(TokenizerTraining config);  // InputError for a config that cannot be

  // Adds a text; it may be handed over in pieces cut anywhere but within a word.
  void add(std::string_view text);
  int64_t bytes() const { return bytes_; }

  // The content of a .model file. InputError if the text is too small for that many pieces.
  std::string train();

 private:
  void add_line(std::string_view line);
  void prune();

  TokenizerTraining config_;
  int64_t bytes_ = 0, characters_held_ = 0;
  std::unordered_map<std::string, int64_t> words_;  // BPE needs no more than words and how often they come
  std::vector<std::string> lines_;                  // unigram takes its first candidates from whole lines
};

}  // namespace rattan
