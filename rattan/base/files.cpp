#include "rattan/base/files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "rattan/base/error.h"

namespace rattan {
namespace files_file {

namespace fs = std::filesystem;

constexpr std::size_t kBufferBytes = std::size_t{1} << 20;

std::string reason(int code) { return std::strerror(code); }

// A file descriptor that closes itself; close() reports what the kernel says at that point.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }
  int close() { return ::close(std::exchange(fd_, -1)); }

 private:
  int fd_;
};

std::string folder_problem(const fs::path& folder) {
  std::error_code ignored;
  if (!fs::exists(folder, ignored)) return fmt::format("the folder {} does not exist", folder.string());
  if (!fs::is_directory(folder, ignored)) return fmt::format("{} is not a folder", folder.string());
  return "";
}

fs::path folder_of(const fs::path& path) {
  fs::path folder = path.parent_path();
  return folder.empty() ? fs::path(".") : folder;
}

[[noreturn]] void fail_write(const fs::path& path, int code) {
  std::string why = reason(code);
  if (code == ENOENT || code == ENOTDIR) {
    if (std::string problem = folder_problem(folder_of(path)); !problem.empty()) why = problem;
  }
  if (code == ENOSPC || code == EDQUOT) why += "; free some space or choose another folder";
  fail("cannot write {}: {}", path.string(), why);
}

void write_all(int fd, const std::byte* data, std::size_t bytes, const fs::path& path) {
  while (bytes > 0) {
    ssize_t done = ::write(fd, data, bytes);
    if (done < 0) {
      if (errno == EINTR) continue;
      fail_write(path, errno);
    }
    data += done;
    bytes -= static_cast<std::size_t>(done);
  }
}

// Gathers small appends; large ones go straight through.
class Buffered {
 public:
  Buffered(int fd, const fs::path& path) : fd_(fd), path_(path) {}
  void append(const void* data, std::size_t bytes) {
    auto first = static_cast<const std::byte*>(data);
    if (buffer_.size() + bytes > kBufferBytes) flush();
    if (bytes >= kBufferBytes) return write_all(fd_, first, bytes, path_);
    buffer_.insert(buffer_.end(), first, first + bytes);
  }
  void flush() {
    write_all(fd_, buffer_.data(), buffer_.size(), path_);
    buffer_.clear();
  }

 private:
  int fd_;
  const fs::path& path_;
  std::vector<std::byte> buffer_;
};

void fill_and_close(int fd, const fs::path& path, bool sync, const std::function<void(const ByteWriter&)>& fill) {
  Descriptor file(fd);
  Buffered out(fd, path);
  fill([&out](const void* data, std::size_t bytes) { out.append(data, bytes); });
  out.flush();
  if (sync && ::fsync(fd) != 0) fail_write(path, errno);
  if (file.close() != 0) fail_write(path, errno);
}

// Opens for reading and learns the size; InputError says why not.
int open_to_read(const fs::path& path, struct stat& info) {
  int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail_input("cannot read {}: {}", path.string(), reason(errno));
  if (::fstat(fd, &info) != 0 || S_ISDIR(info.st_mode)) {
    ::close(fd);
    fail_input("cannot read {}: it is a folder, expected a file", path.string());
  }
  return fd;
}

}  // namespace files_file

std::string read_file(const std::filesystem::path& path) {
  using namespace files_file;
  struct stat info;
  Descriptor file(open_to_read(path, info));
  std::string content;
  content.reserve(S_ISREG(info.st_mode) ? static_cast<std::size_t>(info.st_size) : 0);
  std::vector<char> piece(std::size_t{1} << 16);
  for (;;) {
    ssize_t got = ::read(file.get(), piece.data(), piece.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail_input("cannot read {}: {}", path.string(), reason(errno));
    if (got == 0) return content;
    content.append(piece.data(), static_cast<std::size_t>(got));
  }
}

void write_file(const std::filesystem::path& path, std::string_view content) {
  write_file(path, [content](const ByteWriter& write) { write(content.data(), content.size()); });
}

void write_file(const std::filesystem::path& path, const std::function<void(const ByteWriter&)>& fill) {
  using namespace files_file;
  std::error_code none;
  fs::path target = path;
  if (fs::is_symlink(path, none)) {
    // Renaming over a link would replace the link instead of the file it stands for.
    fs::path resolved = fs::weakly_canonical(path, none);
    if (!none) target = resolved;
  }
  fs::file_status status = fs::status(target, none);
  if (fs::is_directory(status)) fail("cannot write {}: it is a folder", path.string());
  if (fs::exists(status) && !fs::is_regular_file(status)) {
    // A device or a pipe is written in place; renaming over it would destroy it.
    int fd = ::open(target.c_str(), O_WRONLY | O_CLOEXEC);
    if (fd < 0) fail_write(path, errno);
    return fill_and_close(fd, path, false, fill);
  }

  fs::path aside = target;
  aside += fmt::format(".tmp-{}", ::getpid());
  int fd = ::open(aside.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) fail_write(path, errno);
  try {
    fill_and_close(fd, path, true, fill);
    if (::rename(aside.c_str(), target.c_str()) != 0) fail_write(path, errno);
  } catch (...) {
    ::unlink(aside.c_str());
    throw;
  }
  sync_folder(folder_of(target));
}

void sync_folder(const std::filesystem::path& folder) {
  using namespace files_file;
  Descriptor opened(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (opened.get() < 0) fail("cannot sync the folder {}: {}", folder.string(), reason(errno));
  // Some file systems cannot sync a folder and say EINVAL; their renames are ordered by other means.
  if (::fsync(opened.get()) != 0 && errno != EINVAL) {
    fail("cannot sync the folder {}: {}", folder.string(), reason(errno));
  }
}

MappedFile::MappedFile(const std::filesystem::path& path) {
  using namespace files_file;
  struct stat info;
  Descriptor file(open_to_read(path, info));
  if (!S_ISREG(info.st_mode)) fail_input("cannot map {}: it is not a regular file", path.string());
  if (info.st_size == 0) return;  // mmap refuses length 0; an empty span says the same
  size_ = static_cast<std::size_t>(info.st_size);
  data_ = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, file.get(), 0);
  if (data_ == MAP_FAILED) {
    data_ = nullptr;
    fail_input("cannot map {}: {}", path.string(), reason(errno));
  }
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

}  // namespace rattan
