// A tiny language model on a small text, as configuration file and packed data, for tests of whole runs.
#pragma once
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "rattan/base/error.h"
#include "rattan/base/files.h"
#include "rattan/base/random.h"
#include "rattan/cli/run.h"

namespace rattan::tiny_run {

namespace fs = std::filesystem;

// Runs the command line in this process.
inline int rattan(std::vector<std::string> words) {
  words.insert(words.begin(), "rattan");
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  return cli::run(static_cast<int>(argv.size()), argv.data());
}

// Sentences out of a dozen words: easy to learn, one a line. Seeded.
inline std::string text(int64_t lines) {
  const char* words[] = {"the", "rat", "sat", "on", "a", "mat", "and", "ate", "cheese", "while", "it", "rained"};
  Rng rng(11);
  std::string out;
  for (int64_t i = 0; i < lines; ++i) {
    std::size_t at = rng.below(std::size(words));
    for (int j = 0; j < 8; ++j) {
      out += words[at];
      out += j < 7 ? ' ' : '\n';
      at = rng.below(5) == 0 ? rng.below(std::size(words)) : (at + 1) % std::size(words);
    }
  }
  return out;
}

// Writes `folder`/config.toml and packs `folder`/data; returns the path of the configuration.
inline fs::path prepare(const fs::path& folder) {
  fs::create_directories(folder);
  write_file(folder / "text.txt", text(400));
  int code = rattan({"data", "pack", (folder / "text.txt").string(), "--tokenizer", "bytes", "--documents", "lines",
                     "--holdout-last", "40", "--out", (folder / "data").string()});
  if (code != 0) fail("packing the test's text failed with exit code {}", code);
  write_file(folder / "config.toml", fmt::format(R"(
[model]
vocab_size = 257
d_model = 32
n_layers = 2
pattern = ["rat", "local"]
init_std = 0.1
[mixers.rat]
type = "rat"
n_heads = 2
n_groups = 1
chunk = 4
[mixers.local]
type = "swa"
n_heads = 2
window = 8
[data]
seq_len = 32
batch = 4
[[data.sources]]
path = "{}"
[train]
steps = 20
lr = 0.01
precision = "fp32"
seed = 3
[run]
peak_tflops = 1.0
sample_tokens = 0
threads = 1
)",
                                                 (folder / "data").string()));
  return folder / "config.toml";
}

}  // namespace rattan::tiny_run
