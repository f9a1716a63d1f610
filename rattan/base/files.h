// Files that are whole or absent.
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>

namespace rattan {

std::string read_file(const std::filesystem::path& path);  // InputError if it cannot be read

// Writes aside (path + ".tmp-<pid>"), syncs, renames over `path`, syncs the folder. On any failure (a full
// disk, a vanished folder) the temporary file is removed, `path` is untouched and Error says why.
void write_file(const std::filesystem::path& path, std::string_view content);

// The same for large content: `fill` gets a writer that appends bytes.
using ByteWriter = std::function<void(const void* data, std::size_t bytes)>;
void write_file(const std::filesystem::path& path, const std::function<void(const ByteWriter&)>& fill);

void sync_folder(const std::filesystem::path& folder);

// A read-only memory map of a whole file.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);  // InputError if it cannot be opened
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  std::span<const std::byte> bytes() const { return {static_cast<const std::byte*>(data_), size_}; }

 private:
  void* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace rattan
