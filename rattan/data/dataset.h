// Packed data: a folder of token shards in splits ("train", "valid"), with the tokenizer that made them.
//
//   manifest.json            written last; a folder without it is not packed data
//   tokenizer.model          or whatever file the tokenizer saves
//   train-00000.shard ...    see shard.h
//
// manifest.json: {"format": "rattan-data", "version": 1, "tokenizer": fingerprint, "vocab_size", "eos",
//   "splits": {name: {"tokens", "documents", "bytes", "shards": [{"file", "tokens", "documents", "checksum"}]}}}
#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "rattan/data/shard.h"
#include "rattan/data/tokenizer.h"

namespace rattan {

struct ShardEntry {
  std::string file;
  int64_t tokens = 0, documents = 0;
  std::string checksum;  // 16 hexadecimal digits
};

struct SplitEntry {
  int64_t tokens = 0, documents = 0, bytes = 0;
  std::vector<ShardEntry> shards;
};

struct Manifest {
  std::string tokenizer;  // its fingerprint
  int64_t vocab_size = 0;
  int32_t eos = -1;
  std::map<std::string, SplitEntry> splits;

  std::string to_json() const;
  static Manifest from_json(const std::string& text, const std::string& source);  // InputError
};

// One split of packed data as one long sequence of tokens. Opening maps the files and checks their sizes.
class Dataset {
 public:
  // InputError if the folder is not packed data, has no such split, or is damaged.
  Dataset(const std::filesystem::path& folder, const std::string& split, bool verify = false);

  const std::filesystem::path& folder() const { return folder_; }
  const Manifest& manifest() const { return manifest_; }
  const Tokenizer& tokenizer() const { return *tokenizer_; }
  int64_t tokens() const { return tokens_; }
  int64_t documents() const { return documents_; }
  int64_t bytes() const { return bytes_; }

  void read(int64_t begin, std::span<int64_t> out) const;
  Document document(int64_t index) const;  // begin and end count from the start of the split

  // How many bytes of original text this token stands for. Exact for a lossless tokenizer; for others the
  // mean over the split, so that the whole split still has its true length.
  double token_bytes(int64_t id) const { return token_bytes_[static_cast<std::size_t>(id)]; }

 private:
  std::filesystem::path folder_;
  Manifest manifest_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::vector<Shard> shards_;
  std::vector<int64_t> first_token_, first_document_;  // of each shard, and one past the last
  int64_t tokens_ = 0, documents_ = 0, bytes_ = 0;
  std::vector<double> token_bytes_;
};

}  // namespace rattan
