#include "rattan/data/shard.h"

#include <algorithm>
#include <cstring>

#include "rattan/base/error.h"
#include "rattan/data/checksum.h"
#include "rattan/data/shard_header.h"

namespace rattan {
namespace shard_file {

uint64_t load_u64(const std::byte* p) {
  uint64_t x;
  std::memcpy(&x, p, sizeof x);
  return x;
}

template <class Id>
int64_t read_ids(const std::byte* ids, int64_t begin, std::span<int64_t> out) {
  int64_t highest = 0;
  const std::byte* from = ids + begin * static_cast<int64_t>(sizeof(Id));
  for (std::size_t i = 0; i < out.size(); ++i) {
    Id id;
    std::memcpy(&id, from + i * sizeof id, sizeof id);
    out[i] = static_cast<int64_t>(id);
    highest = std::max(highest, out[i]);
  }
  return highest;
}

}  // namespace shard_file

Shard::Shard(const std::filesystem::path& path, bool verify) : path_(path), name_(path.string()), file_(path) {
  using namespace shard_file;
  auto bytes = file_.bytes();
  auto damaged = [&](bool holds, const char* what) {
    require(holds, "{}: damaged token shard: {}; pack the data again", name_, what);
  };
  damaged(bytes.size() >= sizeof(ShardHeader), "shorter than its header");
  ShardHeader header;
  std::memcpy(&header, bytes.data(), sizeof header);
  require(header.magic == kShardMagic, "{}: not a token shard (expected the mark RATSHARD at its start)", name_);
  damaged(header.own_checksum == header.make_checksum(), "the header's checksum does not match");
  require(header.version == kShardVersion, "{}: a token shard of version {}; this program reads version {}", name_,
          header.version, kShardVersion);
  damaged(header.id_bytes == 2 || header.id_bytes == 4, "ids of an unknown size");
  uint64_t limit = bytes.size();
  damaged(header.tokens <= limit && header.documents <= limit, "its size does not fit its header");
  uint64_t ids_end = sizeof header + padded(header.tokens * header.id_bytes);
  damaged(ids_end + header.documents * 16 == limit, "its size does not fit its header");
  damaged(header.vocab_size >= 1 && header.vocab_size <= (uint64_t{1} << (8 * header.id_bytes)),
          "a vocabulary size that its ids cannot hold");
  tokens_ = static_cast<int64_t>(header.tokens);
  documents_ = static_cast<int64_t>(header.documents);
  vocab_size_ = static_cast<int64_t>(header.vocab_size);
  id_bytes_ = header.id_bytes;
  checksum_ = header.checksum;
  ids_ = bytes.data() + sizeof header;
  index_ = bytes.data() + ids_end;
  damaged(documents_ > 0 ? document(documents_ - 1).end == tokens_ : tokens_ == 0, "its index does not fit its header");
  if (verify) this->verify();
}

void Shard::verify() const {
  auto bytes = file_.bytes().subspan(sizeof(ShardHeader));
  Checksum sum;
  sum.add(bytes.data(), bytes.size());
  require(sum.value() == checksum_, "{}: damaged token shard: the checksum is {}, expected {}; pack the data again",
          name_, checksum_text(sum.value()), checksum_text(checksum_));
  std::vector<int64_t> ids(1 << 16);
  for (int64_t at = 0; at < tokens_; at += static_cast<int64_t>(ids.size())) {
    ids.resize(static_cast<std::size_t>(std::min<int64_t>(tokens_ - at, static_cast<int64_t>(ids.size()))));
    read(at, ids);
  }
  for (int64_t i = 0; i < documents_; ++i) document(i);
}

int64_t Shard::bytes() const {
  int64_t sum = 0;
  for (int64_t i = 0; i < documents_; ++i) sum += document(i).bytes;
  return sum;
}

void Shard::read(int64_t begin, std::span<int64_t> out) const {
  auto count = static_cast<int64_t>(out.size());
  require(begin >= 0 && begin <= tokens_ && count <= tokens_ - begin,
          "{}: tokens {} to {} asked of a shard of {} tokens", name_, begin, begin + count, tokens_);
  int64_t highest = id_bytes_ == 2 ? shard_file::read_ids<uint16_t>(ids_, begin, out)
                                   : shard_file::read_ids<uint32_t>(ids_, begin, out);
  if (highest < vocab_size_) return;
  auto at = std::find_if(out.begin(), out.end(), [&](int64_t id) { return id >= vocab_size_; }) - out.begin();
  fail_input("{}: token {} has the id {}, but the vocabulary has {} pieces; the shard is damaged, pack the data again",
             name_, begin + at, out[static_cast<std::size_t>(at)], vocab_size_);
}

Document Shard::document(int64_t index) const {
  using shard_file::load_u64;
  require(index >= 0 && index < documents_, "{}: document {} asked of a shard of {} documents", name_, index,
          documents_);
  uint64_t begin = index > 0 ? load_u64(index_ + (index - 1) * 16) : 0;
  uint64_t end = load_u64(index_ + index * 16), bytes = load_u64(index_ + index * 16 + 8);
  require(begin < end && end <= static_cast<uint64_t>(tokens_) && bytes <= uint64_t{1} << 48,
          "{}: damaged token shard: document {} is said to hold tokens {} to {} of {}; pack the data again", name_,
          index, begin, end, tokens_);
  return {static_cast<int64_t>(begin), static_cast<int64_t>(end), static_cast<int64_t>(bytes)};
}

int64_t Shard::document_at(int64_t token) const {
  require(token >= 0 && token < tokens_, "{}: token {} asked of a shard of {} tokens", name_, token, tokens_);
  int64_t low = 0, high = documents_ - 1;
  while (low < high) {
    int64_t middle = (low + high) / 2;
    if (document(middle).end > token)
      high = middle;
    else
      low = middle + 1;
  }
  return low;
}

}  // namespace rattan
