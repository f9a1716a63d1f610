// A token shard: one file of token ids with a document index, read through a memory map.
//
// Layout (little-endian; offsets in bytes):
//   0   magic "RATSHARD"            8   u32 version (1)         12  u32 bytes an id (2 or 4)
//   16  u64 tokens                  24  u64 documents           32  u64 vocabulary size
//   40  u64 reserved (0)            48  u64 XXH64 of everything from offset 64 on
//   56  u64 XXH64 of bytes 0 .. 55
//   64  the ids, padded with zeros to a multiple of 8
//   ..  one pair (u64 end, u64 bytes) a document: the place after its last token (its end-of-document token),
//       and the length of its original text
// The size of the file follows from the header; a file of another size is damaged.
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "rattan/base/files.h"

namespace rattan {

struct Document {
  int64_t begin, end;  // tokens [begin, end) of the shard or of the whole split
  int64_t bytes;       // of the original text
};

class Shard {
 public:
  // InputError if header, size or index do not fit together. `verify` also reads everything and compares the
  // checksum and the range of the ids.
  explicit Shard(const std::filesystem::path& path, bool verify = false);

  const std::filesystem::path& path() const { return path_; }
  int64_t tokens() const { return tokens_; }
  int64_t documents() const { return documents_; }
  int64_t vocab_size() const { return vocab_size_; }
  uint64_t checksum() const { return checksum_; }
  int64_t bytes() const;  // of the original texts

  // Ids [begin, begin + out.size()); InputError if one is out of range.
  void read(int64_t begin, std::span<int64_t> out) const;
  Document document(int64_t index) const;
  int64_t document_at(int64_t token) const;  // the index of the document that holds this token

 private:
  void verify() const;

  std::filesystem::path path_;
  std::string name_;
  MappedFile file_;
  int64_t tokens_, documents_, vocab_size_, id_bytes_;
  uint64_t checksum_;
  const std::byte* ids_;
  const std::byte* index_;
};

// Writes a shard from start to end; without close() the file has no valid header.
class ShardWriter {
 public:
  ShardWriter(const std::filesystem::path& path, int64_t vocab_size);
  ~ShardWriter();
  ShardWriter(const ShardWriter&) = delete;
  ShardWriter& operator=(const ShardWriter&) = delete;

  void append(std::span<const int32_t> ids);
  void end_document(int64_t bytes);  // the tokens since the last call are a document
  int64_t tokens() const { return tokens_; }
  int64_t documents() const { return static_cast<int64_t>(index_.size()) / 2; }
  uint64_t close();  // writes index and header, syncs; returns the checksum

 private:
  struct File;
  void put(const void* data, std::size_t bytes);

  std::filesystem::path path_;
  std::unique_ptr<File> file_;
  int64_t vocab_size_, tokens_ = 0;
  std::vector<uint64_t> index_;
};

}  // namespace rattan
