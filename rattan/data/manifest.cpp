#include <nlohmann/json.hpp>

#include "rattan/base/error.h"
#include "rattan/data/dataset.h"

namespace rattan {
namespace manifest_file {

using nlohmann::json;

constexpr int64_t kMost = int64_t{1} << 48;

// Reads values and says what is wrong with the file instead of throwing json's own errors.
struct Reader {
  const std::string& source;

  const json& at(const json& object, const char* key) const {
    require(object.is_object() && object.contains(key), "{}: damaged manifest: \"{}\" is missing; pack the data again",
            source, key);
    return object[key];
  }
  int64_t number(const json& object, const char* key, int64_t low = 0) const {
    const json& value = at(object, key);
    bool fits = value.is_number_integer() && value >= low && value <= kMost;
    require(fits, "{}: damaged manifest: \"{}\" must be an integer of at least {}, got {}", source, key, low,
            value.dump(-1, ' ', false, json::error_handler_t::replace));
    return value.get<int64_t>();
  }
  std::string text(const json& object, const char* key) const {
    const json& value = at(object, key);
    require(value.is_string(), "{}: damaged manifest: \"{}\" must be a string", source, key);
    return value.get<std::string>();
  }
};

ShardEntry read_shard(const Reader& read, const json& value) {
  ShardEntry shard;
  shard.file = read.text(value, "file");
  bool plain = !shard.file.empty() && shard.file.find('/') == std::string::npos && shard.file[0] != '.';
  require(plain, "{}: damaged manifest: \"{}\" is not the name of a shard in this folder", read.source, shard.file);
  shard.tokens = read.number(value, "tokens");
  shard.documents = read.number(value, "documents");
  shard.checksum = read.text(value, "checksum");
  return shard;
}

SplitEntry read_split(const Reader& read, const json& value) {
  SplitEntry split;
  split.tokens = read.number(value, "tokens");
  split.documents = read.number(value, "documents");
  split.bytes = read.number(value, "bytes");
  const json& shards = read.at(value, "shards");
  require(shards.is_array(), "{}: damaged manifest: \"shards\" must be a list", read.source);
  int64_t tokens = 0, documents = 0;
  for (const json& shard : shards) {
    split.shards.push_back(read_shard(read, shard));
    tokens += split.shards.back().tokens;
    documents += split.shards.back().documents;
    require(tokens <= kMost && documents <= kMost, "{}: damaged manifest: counts too large", read.source);
  }
  require(tokens == split.tokens && documents == split.documents,
          "{}: damaged manifest: the shards hold {} tokens in {} documents, the split {} in {}", read.source, tokens,
          documents, split.tokens, split.documents);
  return split;
}

}  // namespace manifest_file

std::string Manifest::to_json() const {
  using manifest_file::json;
  json document = {{"format", "rattan-data"},  {"version", 1}, {"tokenizer", tokenizer},
                   {"vocab_size", vocab_size}, {"eos", eos},   {"splits", json::object()}};
  for (const auto& [name, split] : splits) {
    json shards = json::array();
    for (const ShardEntry& shard : split.shards)
      shards.push_back({{"file", shard.file},
                        {"tokens", shard.tokens},
                        {"documents", shard.documents},
                        {"checksum", shard.checksum}});
    document["splits"][name] = {
        {"tokens", split.tokens}, {"documents", split.documents}, {"bytes", split.bytes}, {"shards", shards}};
  }
  return document.dump(2) + "\n";
}

Manifest Manifest::from_json(const std::string& text, const std::string& source) {
  using namespace manifest_file;
  json document = json::parse(text, nullptr, false);
  require(!document.is_discarded(), "{}: damaged manifest: not JSON; pack the data again", source);
  Reader read{source};
  require(read.text(document, "format") == "rattan-data" && read.number(document, "version") == 1,
          "{}: expected packed data of version 1 (made by `rattan data pack`)", source);
  Manifest manifest;
  manifest.tokenizer = read.text(document, "tokenizer");
  manifest.vocab_size = read.number(document, "vocab_size", 1);
  int64_t eos = read.number(document, "eos");
  require(eos < manifest.vocab_size, "{}: damaged manifest: eos {} is outside a vocabulary of {}", source, eos,
          manifest.vocab_size);
  manifest.eos = static_cast<int32_t>(eos);
  const json& splits = read.at(document, "splits");
  require(splits.is_object(), "{}: damaged manifest: \"splits\" must be a table", source);
  for (const auto& [name, split] : splits.items()) manifest.splits[name] = read_split(read, split);
  return manifest;
}

}  // namespace rattan
