#include "rattan/data/byte_source.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <vector>

#include "rattan/base/error.h"

namespace rattan {
namespace byte_source_file {

constexpr std::size_t kBuffer = 1 << 17;

class FileBytes final : public ByteSource {
 public:
  explicit FileBytes(const std::string& path) : name_(path == "-" ? "standard input" : path) {
    descriptor_ = path == "-" ? STDIN_FILENO : ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    require(descriptor_ >= 0, "{}: cannot open: {}", name_, std::strerror(errno));
    struct stat info {};
    bool folder = ::fstat(descriptor_, &info) == 0 && S_ISDIR(info.st_mode);
    require(!folder, "{}: is a folder, expected a file", name_);
  }
  ~FileBytes() override {
    if (descriptor_ != STDIN_FILENO) ::close(descriptor_);
  }
  std::size_t read(char* out, std::size_t bytes) override {
    if (!ahead_.empty()) {
      std::size_t n = std::min(bytes, ahead_.size());
      std::memcpy(out, ahead_.data(), n);
      ahead_.erase(0, n);
      return n;
    }
    for (;;) {
      ssize_t n = ::read(descriptor_, out, bytes);
      if (n >= 0) return static_cast<std::size_t>(n);
      if (errno != EINTR) fail("{}: cannot read: {}", name_, std::strerror(errno));
    }
  }
  // The first bytes, which read() gives again.
  std::string peek(std::size_t bytes) {
    std::string start(bytes, '\0');
    std::size_t have = 0;
    while (have < bytes) {
      std::size_t n = read(start.data() + have, bytes - have);
      if (n == 0) break;
      have += n;
    }
    start.resize(have);
    ahead_ = start;
    return start;
  }
  const std::string& name() const { return name_; }

 private:
  int descriptor_;
  std::string name_, ahead_;
};

// Input of a decompressor.
class Filled {
 public:
  explicit Filled(std::unique_ptr<FileBytes> file) : file_(std::move(file)) {}
  bool refill() { return used = 0, size = file_->read(data.data(), data.size()), size > 0; }
  const std::string& name() const { return file_->name(); }

  std::vector<char> data = std::vector<char>(kBuffer);
  std::size_t used = 0, size = 0;

 private:
  std::unique_ptr<FileBytes> file_;
};

class GzipBytes final : public ByteSource {
 public:
  explicit GzipBytes(std::unique_ptr<FileBytes> file) : input_(std::move(file)) {
    if (inflateInit2(&stream_, 15 + 32) != Z_OK) fail("{}: cannot start zlib", input_.name());
  }
  ~GzipBytes() override { inflateEnd(&stream_); }

  std::size_t read(char* out, std::size_t bytes) override {
    stream_.next_out = reinterpret_cast<Bytef*>(out);
    stream_.avail_out = static_cast<uInt>(std::min<std::size_t>(bytes, 1 << 30));
    const uInt wanted = stream_.avail_out;
    while (stream_.avail_out == wanted) {
      if (stream_.avail_in == 0) {
        if (!input_.refill()) {
          require(!inside_, "{}: the gzip data is cut off", input_.name());
          return 0;
        }
        stream_.next_in = reinterpret_cast<Bytef*>(input_.data.data());
        stream_.avail_in = static_cast<uInt>(input_.size);
      }
      inside_ = true;
      int code = inflate(&stream_, Z_NO_FLUSH);
      if (code == Z_STREAM_END) {  // further members may follow
        inside_ = false;
        inflateReset(&stream_);
      } else {
        require(code == Z_OK || code == Z_BUF_ERROR, "{}: damaged gzip data: {}", input_.name(),
                stream_.msg ? stream_.msg : "unexpected end");
      }
    }
    return wanted - stream_.avail_out;
  }

 private:
  Filled input_;
  z_stream stream_{};
  bool inside_ = true;  // an empty file is no gzip data either
};

class ZstdBytes final : public ByteSource {
 public:
  explicit ZstdBytes(std::unique_ptr<FileBytes> file) : input_(std::move(file)), stream_(ZSTD_createDStream()) {
    if (!stream_) fail("{}: cannot start zstd", input_.name());
  }
  ~ZstdBytes() override { ZSTD_freeDStream(stream_); }

  std::size_t read(char* out, std::size_t bytes) override {
    ZSTD_outBuffer output{out, bytes, 0};
    while (output.pos == 0) {
      if (input_.used == input_.size && !flushing_ && !input_.refill()) {
        require(!inside_, "{}: the zstd data is cut off", input_.name());
        return 0;
      }
      ZSTD_inBuffer input{input_.data.data(), input_.size, input_.used};
      std::size_t code = ZSTD_decompressStream(stream_, &output, &input);
      require(!ZSTD_isError(code), "{}: damaged zstd data: {}", input_.name(), ZSTD_getErrorName(code));
      input_.used = input.pos;
      inside_ = code != 0;
      flushing_ = output.pos == output.size && inside_;
    }
    return output.pos;
  }

 private:
  Filled input_;
  ZSTD_DStream* stream_;
  bool inside_ = true, flushing_ = false;
};

}  // namespace byte_source_file

std::unique_ptr<ByteSource> open_bytes(const std::string& path) {
  using namespace byte_source_file;
  auto file = std::make_unique<FileBytes>(path);
  bool gzip = path.ends_with(".gz"), zstd = path.ends_with(".zst");
  if (path == "-") {
    std::string start = file->peek(4);
    gzip = start.starts_with("\x1F\x8B");
    zstd = start == "\x28\xB5\x2F\xFD";
  }
  if (gzip) return std::make_unique<GzipBytes>(std::move(file));
  if (zstd) return std::make_unique<ZstdBytes>(std::move(file));
  return file;
}

}  // namespace rattan
