// Writing documents into splits and shards.
#pragma once
#include <cstdint>
#include <deque>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "rattan/data/dataset.h"
#include "rattan/data/pack.h"

namespace rattan {

// The shards of one split.
class SplitWriter {
 public:
  SplitWriter(std::filesystem::path folder, std::string name, int64_t vocab_size, int64_t shard_tokens);
  void append(std::span<const int32_t> ids);
  void end_document(int64_t bytes);
  SplitEntry close();
  int64_t documents() const { return entry_.documents; }

 private:
  void close_shard();

  std::filesystem::path folder_;
  std::string name_;
  int64_t vocab_size_, shard_tokens_;
  std::unique_ptr<ShardWriter> shard_;
  SplitEntry entry_;
};

// Sends each document to its split. Documents come one after another, each in one or more parts.
class Divider {
 public:
  Divider(const std::filesystem::path& folder, const Tokenizer& tokenizer, const Holdout& holdout,
          int64_t shard_tokens);
  void part(std::span<const int32_t> ids, int64_t bytes, bool first, bool last);
  std::map<std::string, SplitEntry> close();  // InputError if a split would be empty

 private:
  struct Held {
    double key;  // the smallest keys are held out
    int64_t index, bytes;
    std::vector<int32_t> ids;
  };
  void start();
  void finish();
  void write(SplitWriter& writer, const Held& document);
  bool wanted() const { return holdout_.fraction > 0 || holdout_.count > 0 || holdout_.last > 0; }

  Holdout holdout_;
  int32_t eos_;
  SplitWriter train_, valid_;
  int64_t index_ = 0, bytes_ = 0, held_tokens_ = 0;
  SplitWriter* direct_ = nullptr;  // where the document goes at once; null: it is held back
  Held document_;
  std::vector<Held> held_;  // count: a heap with the largest key on top
  std::deque<Held> last_;
};

}  // namespace rattan
