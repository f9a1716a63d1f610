// What the tests of this folder share.
#pragma once
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "rattan/base/error.h"
#include "rattan/base/files.h"
#include "rattan/base/random.h"
#include "rattan/data/tokenizer.h"
#include "rattan/data/tokenizer_training.h"

namespace rattan::data_test {

// A folder of its own for each test, removed at the end.
class TempFolder {
 public:
  TempFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "rattan-data-XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  ~TempFolder() { std::filesystem::remove_all(path_); }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  const std::filesystem::path& path() const { return path_; }

  std::string put(const std::string& name, const std::string& content) const {
    std::filesystem::create_directories((path_ / name).parent_path());
    std::ofstream(path_ / name, std::ios::binary) << content;
    return (path_ / name).string();
  }

 private:
  std::filesystem::path path_;
};

// Text of made-up words whose frequencies fall off, with numbers, blanks and line breaks; no two seeds alike.
inline std::string made_up_text(std::size_t bytes, uint64_t seed) {
  Rng rng(seed, 17);
  std::string text;
  while (text.size() < bytes) {
    double u = rng.uniform();
    Rng word(7, static_cast<uint64_t>(400 * u * u * u));
    uint64_t letters = 1 + word.below(8);
    for (uint64_t i = 0; i < letters; ++i) text += static_cast<char>('a' + word.below(26));
    uint64_t what = rng.below(40);
    if (what == 0)
      text += "\n";
    else if (what == 1)
      text += ", \xC3\xA9t\xC3\xA9 " + std::to_string(rng.below(1000)) + " ";
    else if (what == 2)
      text += "  ";
    else
      text += " ";
  }
  text.resize(bytes);
  return text;
}

inline std::string trained_model(const std::string& type, int64_t vocab_size) {
  TokenizerTrainer trainer({type, vocab_size});
  trainer.add(made_up_text(150'000, 1));
  return trainer.train();
}

// One tokenizer of each kind, made once.
inline const Tokenizer& tokenizer(const std::string& kind) {
  static const auto bytes = bytes_tokenizer();
  static const auto bpe = sentencepiece_tokenizer(trained_model("bpe", 500), "bpe");
  static const auto unigram = sentencepiece_tokenizer(trained_model("unigram", 400), "unigram");
  return kind == "bytes" ? *bytes : kind == "bpe" ? *bpe : *unigram;
}

// The message of the InputError that `work` must throw.
template <class Work>
std::string input_error(Work&& work) {
  try {
    work();
  } catch (const InputError& error) {
    return error.what();
  }
  ADD_FAILURE() << "expected an InputError";
  return "";
}

}  // namespace rattan::data_test
