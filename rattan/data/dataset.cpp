#include "rattan/data/dataset.h"

#include <algorithm>

#include "rattan/base/error.h"
#include "rattan/data/checksum.h"

namespace rattan {
namespace dataset_file {

Manifest read_manifest(const std::filesystem::path& folder) {
  std::error_code error;
  require(std::filesystem::is_directory(folder, error), "{}: no such folder; make it with `rattan data pack`",
          folder.string());
  std::filesystem::path path = folder / "manifest.json";
  require(std::filesystem::exists(path, error),
          "{}: not packed data (there is no manifest.json in it); make it with `rattan data pack`", folder.string());
  return Manifest::from_json(read_file(path), path.string());
}

std::string names(const std::map<std::string, SplitEntry>& splits) {
  std::string text;
  for (const auto& [name, split] : splits) text += (text.empty() ? "" : ", ") + name;
  return text.empty() ? "none" : text;
}

// The bytes of each token as its vocabulary writes it; where the tokenizer changes the text, every token but
// end-of-document counts the mean.
std::vector<double> bytes_of_tokens(const Tokenizer& tokenizer, const Dataset& data) {
  std::vector<double> bytes(static_cast<std::size_t>(tokenizer.vocab_size()));
  double mean =
      static_cast<double>(data.bytes()) / static_cast<double>(std::max<int64_t>(1, data.tokens() - data.documents()));
  for (std::size_t id = 0; id < bytes.size(); ++id)
    bytes[id] =
        tokenizer.lossless() ? static_cast<double>(tokenizer.decode_piece(static_cast<int32_t>(id)).size()) : mean;
  if (tokenizer.eos() >= 0) bytes[static_cast<std::size_t>(tokenizer.eos())] = 0;
  return bytes;
}

}  // namespace dataset_file

Dataset::Dataset(const std::filesystem::path& folder, const std::string& split, bool verify)
    : folder_(folder), manifest_(dataset_file::read_manifest(folder)) {
  auto found = manifest_.splits.find(split);
  require(found != manifest_.splits.end(), "{}: there is no split \"{}\" in this data; it has: {}", folder.string(),
          split, dataset_file::names(manifest_.splits));
  tokenizer_ = load_tokenizer(folder);
  require_same_vocabulary(tokenizer_->fingerprint(), manifest_.tokenizer, folder.string());
  require(tokenizer_->vocab_size() == manifest_.vocab_size && tokenizer_->eos() == manifest_.eos,
          "{}: the manifest says {} pieces with end of document {}, the tokenizer {} with {}", folder.string(),
          manifest_.vocab_size, manifest_.eos, tokenizer_->vocab_size(), tokenizer_->eos());
  const SplitEntry& entry = found->second;
  for (const ShardEntry& listed : entry.shards) {
    const Shard& shard = shards_.emplace_back(folder / listed.file, verify);
    bool same = shard.tokens() == listed.tokens && shard.documents() == listed.documents &&
                shard.vocab_size() == manifest_.vocab_size && checksum_text(shard.checksum()) == listed.checksum;
    require(same, "{}: this shard is not the one that the manifest lists; pack the data again", shard.path().string());
    first_token_.push_back(tokens_);
    first_document_.push_back(documents_);
    tokens_ += shard.tokens();
    documents_ += shard.documents();
  }
  first_token_.push_back(tokens_);
  first_document_.push_back(documents_);
  bytes_ = entry.bytes;
  if (verify) {
    int64_t bytes = 0;
    for (const Shard& shard : shards_) bytes += shard.bytes();
    require(bytes == bytes_, "{}: the manifest says {} bytes of text, the shards {}; pack the data again",
            folder.string(), bytes_, bytes);
  }
  token_bytes_ = dataset_file::bytes_of_tokens(*tokenizer_, *this);
}

void Dataset::read(int64_t begin, std::span<int64_t> out) const {
  require(begin >= 0 && begin <= tokens_ && static_cast<int64_t>(out.size()) <= tokens_ - begin,
          "{}: tokens {} to {} asked of {}", folder_.string(), begin, begin + static_cast<int64_t>(out.size()),
          tokens_);
  auto shard = static_cast<std::size_t>(std::upper_bound(first_token_.begin(), first_token_.end(), begin) -
                                        first_token_.begin()) -
               1;
  while (!out.empty()) {
    int64_t offset = begin - first_token_[shard];
    auto count =
        static_cast<std::size_t>(std::min<int64_t>(static_cast<int64_t>(out.size()), shards_[shard].tokens() - offset));
    shards_[shard].read(offset, out.first(count));
    out = out.subspan(count);
    begin += static_cast<int64_t>(count);
    ++shard;
  }
}

Document Dataset::document(int64_t index) const {
  require(index >= 0 && index < documents_, "{}: document {} asked of {}", folder_.string(), index, documents_);
  auto shard = static_cast<std::size_t>(std::upper_bound(first_document_.begin(), first_document_.end(), index) -
                                        first_document_.begin()) -
               1;
  Document document = shards_[shard].document(index - first_document_[shard]);
  document.begin += first_token_[shard];
  document.end += first_token_[shard];
  return document;
}

}  // namespace rattan
