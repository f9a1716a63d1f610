#include "rattan/data/split_writer.h"

#include <algorithm>

#include "rattan/base/error.h"
#include "rattan/base/random.h"
#include "rattan/data/checksum.h"

namespace rattan {
namespace split_writer_file {

constexpr int64_t kMostHeldTokens = int64_t{64} << 20;
constexpr int64_t kMostShardDocuments = int64_t{1} << 21;  // bounds the index in memory: 32 MiB
constexpr uint64_t kHoldoutStream = 0x686F6C64;

double key_of(uint64_t seed, int64_t index) {
  Rng rng(seed, kHoldoutStream);
  rng.set_position(static_cast<uint64_t>(index));
  return rng.uniform();
}

}  // namespace split_writer_file

SplitWriter::SplitWriter(std::filesystem::path folder, std::string name, int64_t vocab_size, int64_t shard_tokens)
    : folder_(std::move(folder)), name_(std::move(name)), vocab_size_(vocab_size), shard_tokens_(shard_tokens) {}

void SplitWriter::append(std::span<const int32_t> ids) {
  if (!shard_) {
    entry_.shards.push_back({fmt::format("{}-{:05}.shard", name_, entry_.shards.size()), 0, 0, ""});
    shard_ = std::make_unique<ShardWriter>(folder_ / entry_.shards.back().file, vocab_size_);
  }
  shard_->append(ids);
}

void SplitWriter::end_document(int64_t bytes) {
  shard_->end_document(bytes);
  ++entry_.documents;
  entry_.bytes += bytes;
  if (shard_->tokens() >= shard_tokens_ || shard_->documents() >= split_writer_file::kMostShardDocuments) close_shard();
}

void SplitWriter::close_shard() {
  ShardEntry& listed = entry_.shards.back();
  listed.tokens = shard_->tokens();
  listed.documents = shard_->documents();
  listed.checksum = checksum_text(shard_->close());
  entry_.tokens += listed.tokens;
  shard_.reset();
}

SplitEntry SplitWriter::close() {
  if (shard_) close_shard();
  return entry_;
}

Divider::Divider(const std::filesystem::path& folder, const Tokenizer& tokenizer, const Holdout& holdout,
                 int64_t shard_tokens)
    : holdout_(holdout),
      eos_(tokenizer.eos()),
      train_(folder, "train", tokenizer.vocab_size(), shard_tokens),
      valid_(folder, "valid", tokenizer.vocab_size(), shard_tokens) {}

void Divider::start() {
  document_ = {split_writer_file::key_of(holdout_.seed, index_), index_, 0, {}};
  bytes_ = 0;
  direct_ = &train_;
  if (holdout_.fraction > 0 && document_.key < holdout_.fraction) direct_ = &valid_;
  bool may_be_held =
      static_cast<int64_t>(held_.size()) < holdout_.count || (!held_.empty() && document_.key < held_.front().key);
  if (holdout_.last > 0 || may_be_held) direct_ = nullptr;
}

void Divider::part(std::span<const int32_t> ids, int64_t bytes, bool first, bool last) {
  if (first) start();
  bytes_ += bytes;
  if (direct_) {
    direct_->append(ids);
  } else {
    document_.ids.insert(document_.ids.end(), ids.begin(), ids.end());
    require(held_tokens_ + static_cast<int64_t>(document_.ids.size()) <= split_writer_file::kMostHeldTokens,
            "the documents held out by number have over {} tokens together; hold out a fraction instead",
            split_writer_file::kMostHeldTokens);
  }
  if (last) finish();
}

void Divider::finish() {
  ++index_;
  if (direct_) {
    direct_->append({&eos_, 1});
    direct_->end_document(bytes_);
    return;
  }
  auto smaller = [](const Held& a, const Held& b) { return a.key < b.key; };
  document_.bytes = bytes_;
  document_.ids.shrink_to_fit();
  held_tokens_ += static_cast<int64_t>(document_.ids.size());
  if (holdout_.last > 0) {
    last_.push_back(std::move(document_));
    if (static_cast<int64_t>(last_.size()) <= holdout_.last) return;
    write(train_, last_.front());
    last_.pop_front();
  } else {
    held_.push_back(std::move(document_));
    std::push_heap(held_.begin(), held_.end(), smaller);
    if (static_cast<int64_t>(held_.size()) <= holdout_.count) return;
    std::pop_heap(held_.begin(), held_.end(), smaller);
    write(train_, held_.back());
    held_.pop_back();
  }
}

void Divider::write(SplitWriter& writer, const Held& document) {
  held_tokens_ -= static_cast<int64_t>(document.ids.size());
  writer.append(document.ids);
  writer.append({&eos_, 1});
  writer.end_document(document.bytes);
}

std::map<std::string, SplitEntry> Divider::close() {
  std::sort(held_.begin(), held_.end(), [](const Held& a, const Held& b) { return a.index < b.index; });
  for (const Held& document : held_) write(valid_, document);
  for (const Held& document : last_) write(valid_, document);
  require(index_ > 0, "the input has no text; nothing to pack");
  require(train_.documents() > 0, "all {} documents would be held out, none is left to train on", index_);
  require(!wanted() || valid_.documents() > 0,
          "none of the {} documents fell into the held-out fraction of {}; hold out a count instead", index_,
          holdout_.fraction);
  std::map<std::string, SplitEntry> splits;
  splits["train"] = train_.close();
  if (wanted()) splits["valid"] = valid_.close();
  return splits;
}

}  // namespace rattan
