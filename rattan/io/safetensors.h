// Safetensors files: named tensors in one file that can be mapped.
//
// Layout (all little-endian): 8 bytes, the length N of the header; N bytes of JSON, trailing spaces allowed,
//   {"__metadata__": {string: string, ...},
//    "name": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [begin, end]}, ...}
// then the data; offsets count from its first byte. The tensors cover the data without gap or overlap, row-major.
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "rattan/base/files.h"

namespace rattan {

enum class StoredType : int8_t { f64, f32, f16, bf16, f8_e4m3, f8_e5m2, i64, i32, i16, i8, u64, u32, u16, u8, boolean };

int64_t bytes_of(StoredType type);
const char* name_of(StoredType type);  // as in the header: "F32", "BOOL"

using Shape = std::vector<int64_t>;
std::string shape_text(const Shape& shape);  // "[2, 3]"

// A tensor inside a file. The bytes may stand at any address; copy before reading them as numbers.
struct StoredTensor {
  std::string name;
  StoredType type;
  Shape shape;
  std::span<const std::byte> bytes;
};

struct SafetensorsView {
  std::vector<StoredTensor> tensors;  // in the order of the data
  std::map<std::string, std::string> metadata;
  const StoredTensor* find(const std::string& name) const;  // nullptr if absent; O(log n)
  std::vector<std::size_t> by_name;                         // indices into `tensors`, sorted by name
};

// Reads the header and checks every length, offset, type and shape against the bytes that are there, so a view can be
// used without further checks. InputError names `source` and the tensor.
SafetensorsView parse_safetensors(std::span<const std::byte> file, const std::string& source);

// A mapped file with its view.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);
  const std::string& source() const { return source_; }
  const std::vector<StoredTensor>& tensors() const { return view_.tensors; }
  const std::map<std::string, std::string>& metadata() const { return view_.metadata; }
  const StoredTensor* find(const std::string& name) const { return view_.find(name); }

 private:
  std::string source_;
  MappedFile map_;
  SafetensorsView view_;
};

// A tensor to be written; `write` delivers its bytes, exactly as many as type and shape say.
struct TensorSource {
  std::string name;
  StoredType type;
  Shape shape;
  std::function<void(const ByteWriter&)> write;
};

// Writes all tensors, widest types first and then by name, so that each is aligned to its type and equal content gives
// equal files. The data begins at a multiple of 64 bytes. Whole or absent, as write_file (files.h).
void write_safetensors(const std::filesystem::path& path, std::vector<TensorSource> tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace rattan
