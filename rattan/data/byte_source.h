// Bytes of a file or of standard input, decompressed as they are read.
#pragma once
#include <cstddef>
#include <memory>
#include <string>

namespace rattan {

class ByteSource {
 public:
  virtual ~ByteSource() = default;
  // Up to `bytes` bytes; 0 at the end. InputError for damaged or cut-off compressed data.
  virtual std::size_t read(char* out, std::size_t bytes) = 0;
};

// "-" is standard input. Files named *.gz and *.zst are decompressed, standard input if it starts like one.
std::unique_ptr<ByteSource> open_bytes(const std::string& path);  // InputError

}  // namespace rattan
