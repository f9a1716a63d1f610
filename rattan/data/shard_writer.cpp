#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "rattan/base/error.h"
#include "rattan/data/checksum.h"
#include "rattan/data/shard.h"
#include "rattan/data/shard_header.h"

namespace rattan {
namespace shard_writer_file {

constexpr std::size_t kBuffer = 1 << 20;

}  // namespace shard_writer_file

struct ShardWriter::File {
  int descriptor = -1;
  std::string name;
  std::vector<char> buffer;
  Checksum sum;

  ~File() {
    if (descriptor >= 0) ::close(descriptor);
  }
  void check(bool holds) const {
    if (!holds) fail("{}: cannot write: {}", name, std::strerror(errno));
  }
  void write_all(const char* data, std::size_t bytes) const {
    while (bytes > 0) {
      ssize_t n = ::write(descriptor, data, bytes);
      if (n < 0 && errno == EINTR) continue;
      check(n >= 0);
      data += n, bytes -= static_cast<std::size_t>(n);
    }
  }
  void flush() {
    sum.add(buffer.data(), buffer.size());
    write_all(buffer.data(), buffer.size());
    buffer.clear();
  }
};

ShardWriter::ShardWriter(const std::filesystem::path& path, int64_t vocab_size)
    : path_(path), file_(std::make_unique<File>()), vocab_size_(vocab_size) {
  file_->name = path.string();
  file_->descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  file_->check(file_->descriptor >= 0);
  const char nothing[sizeof(ShardHeader)] = {};
  file_->write_all(nothing, sizeof nothing);
}

ShardWriter::~ShardWriter() = default;

void ShardWriter::put(const void* data, std::size_t bytes) {
  const char* from = static_cast<const char*>(data);
  file_->buffer.insert(file_->buffer.end(), from, from + bytes);
  if (file_->buffer.size() >= shard_writer_file::kBuffer) file_->flush();
}

void ShardWriter::append(std::span<const int32_t> ids) {
  for (int32_t id : ids)
    if (id < 0 || id >= vocab_size_) fail("{}: id {} is outside a vocabulary of {}", path_.string(), id, vocab_size_);
  tokens_ += static_cast<int64_t>(ids.size());
  if (vocab_size_ > 1 << 16) return put(ids.data(), ids.size_bytes());
  uint16_t narrow[1024];
  for (std::size_t at = 0; at < ids.size(); at += 1024) {
    std::size_t count = std::min<std::size_t>(1024, ids.size() - at);
    for (std::size_t i = 0; i < count; ++i) narrow[i] = static_cast<uint16_t>(ids[at + i]);
    put(narrow, count * sizeof narrow[0]);
  }
}

void ShardWriter::end_document(int64_t bytes) {
  index_.push_back(static_cast<uint64_t>(tokens_));
  index_.push_back(static_cast<uint64_t>(bytes));
}

uint64_t ShardWriter::close() {
  ShardHeader header;
  header.id_bytes = vocab_size_ > 1 << 16 ? 4 : 2;
  header.tokens = static_cast<uint64_t>(tokens_);
  header.documents = index_.size() / 2;
  header.vocab_size = static_cast<uint64_t>(vocab_size_);
  const char zeros[8] = {};
  uint64_t used = header.tokens * header.id_bytes;
  put(zeros, padded(used) - used);
  put(index_.data(), index_.size() * sizeof index_[0]);
  file_->flush();
  header.checksum = file_->sum.value();
  header.own_checksum = header.make_checksum();
  file_->check(::pwrite(file_->descriptor, &header, sizeof header, 0) == static_cast<ssize_t>(sizeof header));
  file_->check(::fsync(file_->descriptor) == 0);
  int descriptor = file_->descriptor;
  file_->descriptor = -1;
  file_->check(::close(descriptor) == 0);
  return header.checksum;
}

}  // namespace rattan
