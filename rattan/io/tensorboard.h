// TensorBoard event files: scalars over steps.
//
// A file is a sequence of TFRecords: length (uint64, little-endian), masked CRC-32C of those 8 bytes, the
// payload, masked CRC-32C of the payload; mask(c) = (c rotated right by 15 bits) + 0xa282ead8 modulo 2^32.
// Each payload is a tensorflow.Event in the protocol-buffer wire format; the first holds file_version
// "brain.Event:2".
#pragma once
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string_view>

namespace rattan {

class TensorboardWriter {
 public:
  // Makes `folder` and a new event file in it. `resumed_at` >= 0 tells readers to drop what earlier files of the
  // folder say about steps after that one. Error if the file cannot be made.
  explicit TensorboardWriter(const std::filesystem::path& folder, int64_t resumed_at = -1);

  void scalar(std::string_view tag, int64_t step, double value);  // stored as a 32-bit float; time is now
  void flush();                                                   // Error if the disk does not take it
  const std::filesystem::path& path() const { return path_; }

 private:
  void record(std::string_view payload);
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::filesystem::path path_;
  std::unique_ptr<std::FILE, Close> file_;
};

}  // namespace rattan
