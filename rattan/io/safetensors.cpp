#include "rattan/io/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>

#include "rattan/base/error.h"

namespace rattan {
namespace safetensors_file {

static_assert(std::endian::native == std::endian::little, "tensors are stored and mapped as little-endian");

// Far beyond any real header, small enough to parse: a hostile length must not make us read a whole disk as JSON.
constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr std::size_t kMaxRank = 64;
constexpr std::size_t kAlignment = 64;
constexpr const char* kMetadata = "__metadata__";

struct TypeRow {
  StoredType type;
  const char* name;
  int64_t bytes;
};
constexpr std::array kTypes = {TypeRow{StoredType::f64, "F64", 8},         TypeRow{StoredType::f32, "F32", 4},
                               TypeRow{StoredType::f16, "F16", 2},         TypeRow{StoredType::bf16, "BF16", 2},
                               TypeRow{StoredType::f8_e4m3, "F8_E4M3", 1}, TypeRow{StoredType::f8_e5m2, "F8_E5M2", 1},
                               TypeRow{StoredType::i64, "I64", 8},         TypeRow{StoredType::i32, "I32", 4},
                               TypeRow{StoredType::i16, "I16", 2},         TypeRow{StoredType::i8, "I8", 1},
                               TypeRow{StoredType::u64, "U64", 8},         TypeRow{StoredType::u32, "U32", 4},
                               TypeRow{StoredType::u16, "U16", 2},         TypeRow{StoredType::u8, "U8", 1},
                               TypeRow{StoredType::boolean, "BOOL", 1}};

const TypeRow& row_of(StoredType type) {
  return *std::find_if(kTypes.begin(), kTypes.end(), [type](const TypeRow& row) { return row.type == type; });
}

// Bytes of a tensor, or nothing if the product does not fit; sizes of zero do not hide an overflow of the others.
std::optional<int64_t> size_in_bytes(StoredType type, const Shape& shape) {
  int64_t product = bytes_of(type);
  bool empty = false;
  for (int64_t size : shape) {
    if (size < 0) return std::nullopt;
    if (size == 0) {
      empty = true;
    } else if (__builtin_mul_overflow(product, size, &product)) {
      return std::nullopt;
    }
  }
  return empty ? 0 : product;
}

// A name as it may stand in an error message.
std::string printable(const std::string& name) {
  std::string out = name.substr(0, 120);
  for (char& c : out) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = '?';
  }
  return name.size() > 120 ? out + "..." : out;
}

struct Header {
  struct Entry {
    std::string name;
    StoredType type = StoredType::u8;
    Shape shape;
    std::vector<int64_t> offsets;
    bool has_type = false, has_shape = false, has_offsets = false;
  };
  std::vector<Entry> entries;
  std::map<std::string, std::string> metadata;
};

// Takes the header token by token: the form is fixed, and a document tree would hide repeated names.
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  HeaderReader(Header& header, const std::string& source) : header_(header), source_(source) {}

  bool null() override { return wrong("null"); }
  bool boolean(bool) override { return wrong("a boolean"); }
  bool number_float(number_float_t, const string_t& text) override { return wrong(text); }
  bool binary(binary_t&) override { return wrong("binary data"); }
  bool number_integer(number_integer_t value) override { return wrong(fmt::format("{}", value)); }
  bool number_unsigned(number_unsigned_t value) override {
    if (place_ != Place::shape && place_ != Place::offsets) return wrong(fmt::format("{}", value));
    if (value > static_cast<uint64_t>(INT64_MAX)) return wrong(fmt::format("{}", value));
    std::vector<int64_t>& list = place_ == Place::shape ? entry().shape : entry().offsets;
    if (list.size() == kMaxRank) fail_input("{}: tensor '{}' has more than {} sizes", source_, name(), kMaxRank);
    list.push_back(static_cast<int64_t>(value));
    return true;
  }
  bool string(string_t& value) override {
    if (place_ == Place::metadata) {
      if (!header_.metadata.emplace(key_, value).second) {
        fail_input("{}: the metadata key '{}' appears twice", source_, printable(key_));
      }
      return true;
    }
    if (place_ != Place::tensor || key_ != "dtype") return wrong("the string \"" + printable(value) + "\"");
    auto row = std::find_if(kTypes.begin(), kTypes.end(), [&](const TypeRow& r) { return value == r.name; });
    if (row == kTypes.end()) {
      fail_input("{}: tensor '{}' has the dtype '{}', which is not supported", source_, name(), printable(value));
    }
    if (entry().has_type) return twice();
    entry().has_type = true;
    entry().type = row->type;
    return true;
  }
  bool start_object(std::size_t) override {
    if (place_ == Place::outside) {
      place_ = Place::top;
    } else if (place_ == Place::top && key_ == kMetadata) {
      if (seen_metadata_) fail_input("{}: {} appears twice", source_, kMetadata);
      seen_metadata_ = true;
      place_ = Place::metadata;
    } else if (place_ == Place::top) {
      header_.entries.emplace_back();
      entry().name = key_;
      place_ = Place::tensor;
    } else {
      return wrong("an object");
    }
    return true;
  }
  bool end_object() override {
    if (place_ == Place::tensor) {
      const Header::Entry& e = entry();
      if (!e.has_type || !e.has_shape || !e.has_offsets) {
        fail_input("{}: tensor '{}' lacks '{}'", source_, name(),
                   !e.has_type    ? "dtype"
                   : !e.has_shape ? "shape"
                                  : "data_offsets");
      }
    }
    place_ = place_ == Place::top ? Place::outside : Place::top;
    return true;
  }
  bool key(string_t& key) override {
    if (place_ == Place::tensor && key != "dtype" && key != "shape" && key != "data_offsets") {
      fail_input("{}: tensor '{}' has the unknown field '{}'", source_, name(), printable(key));
    }
    key_ = std::move(key);
    return true;
  }
  bool start_array(std::size_t) override {
    if (place_ == Place::tensor && key_ == "shape") {
      if (entry().has_shape) return twice();
      entry().has_shape = true;
      place_ = Place::shape;
    } else if (place_ == Place::tensor && key_ == "data_offsets") {
      if (entry().has_offsets) return twice();
      entry().has_offsets = true;
      place_ = Place::offsets;
    } else {
      return wrong("a list");
    }
    return true;
  }
  bool end_array() override {
    place_ = Place::tensor;
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    fail_input("{}: the header is not valid JSON at its byte {}; the file is damaged or not safetensors", source_,
               position);
  }

 private:
  enum class Place { outside, top, metadata, tensor, shape, offsets };

  Header::Entry& entry() { return header_.entries.back(); }
  std::string name() { return printable(entry().name); }
  bool twice() { fail_input("{}: tensor '{}' gives '{}' twice", source_, name(), key_); }
  bool wrong(const std::string& got) {
    switch (place_) {
      case Place::outside:
        fail_input("{}: the header must be a JSON object, got {}", source_, got);
      case Place::top:
        fail_input("{}: '{}' must be an object, got {}", source_, printable(key_), got);
      case Place::metadata:
        fail_input("{}: the metadata value of '{}' must be a string, got {}", source_, printable(key_), got);
      case Place::tensor:
        fail_input("{}: tensor '{}': '{}' cannot be {}", source_, name(), key_, got);
      default:
        fail_input("{}: tensor '{}': '{}' must hold whole numbers from 0 on, got {}", source_, name(), key_, got);
    }
  }

  Header& header_;
  const std::string& source_;
  Place place_ = Place::outside;
  std::string key_;
  bool seen_metadata_ = false;
};

Header read_header(std::span<const std::byte> file, const std::string& source) {
  uint64_t length = 0;
  if (file.size() < sizeof length) {
    fail_input("{}: {} bytes are too few for a safetensors file; it is truncated or something else", source,
               file.size());
  }
  std::memcpy(&length, file.data(), sizeof length);
  if (length > kMaxHeaderBytes) {
    fail_input("{}: a header of {} bytes is announced, at most {} are allowed; this is not a safetensors file", source,
               length, kMaxHeaderBytes);
  }
  if (length > file.size() - sizeof length) {
    fail_input("{}: truncated: a header of {} bytes is announced, {} bytes follow", source, length,
               file.size() - sizeof length);
  }
  Header header;
  HeaderReader reader(header, source);
  const char* text = reinterpret_cast<const char*>(file.data()) + sizeof length;
  nlohmann::json::sax_parse(text, text + length, &reader);
  return header;
}

// Turns an entry into a tensor of `data`.
StoredTensor place_entry(const Header::Entry& entry, std::span<const std::byte> data, const std::string& source) {
  std::string name = printable(entry.name);
  std::optional<int64_t> bytes = size_in_bytes(entry.type, entry.shape);
  if (!bytes) fail_input("{}: tensor '{}': the shape {} is too large", source, name, shape_text(entry.shape));
  if (entry.offsets.size() != 2) {
    fail_input("{}: tensor '{}': data_offsets must be [begin, end], got {} numbers", source, name,
               entry.offsets.size());
  }
  int64_t begin = entry.offsets[0], end = entry.offsets[1];
  if (begin > end) fail_input("{}: tensor '{}': data_offsets [{}, {}] run backwards", source, name, begin, end);
  if (end - begin != *bytes) {
    fail_input("{}: tensor '{}': {} {} takes {} bytes, data_offsets [{}, {}] hold {}", source, name,
               name_of(entry.type), shape_text(entry.shape), *bytes, begin, end, end - begin);
  }
  if (static_cast<uint64_t>(end) > data.size()) {
    fail_input("{}: truncated: tensor '{}' ends at byte {} of the data, the file holds {}", source, name, end,
               data.size());
  }
  return {entry.name, entry.type, entry.shape,
          data.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(*bytes))};
}

void check_cover(const std::vector<StoredTensor>& tensors, std::span<const std::byte> data, const std::string& source) {
  std::size_t covered = 0;
  const StoredTensor* previous = nullptr;
  for (const StoredTensor& tensor : tensors) {
    std::size_t begin = static_cast<std::size_t>(tensor.bytes.data() - data.data());
    if (begin < covered) {
      fail_input("{}: tensors '{}' and '{}' overlap", source, printable(previous->name), printable(tensor.name));
    }
    if (begin > covered) {
      fail_input("{}: {} bytes before tensor '{}' belong to no tensor", source, begin - covered,
                 printable(tensor.name));
    }
    covered = begin + tensor.bytes.size();
    previous = &tensor;
  }
  if (covered != data.size()) {
    fail_input("{}: {} bytes after the last tensor belong to no tensor", source, data.size() - covered);
  }
}

std::string header_text(const std::vector<TensorSource>& tensors, const std::map<std::string, std::string>& metadata,
                        const std::filesystem::path& path) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header[kMetadata] = metadata;
  int64_t offset = 0;
  for (const TensorSource& tensor : tensors) {
    std::optional<int64_t> bytes = size_in_bytes(tensor.type, tensor.shape);
    if (!bytes || tensor.shape.size() > kMaxRank) {
      fail("cannot write {}: tensor '{}' has the shape {}", path.string(), tensor.name, shape_text(tensor.shape));
    }
    header[tensor.name] = {
        {"dtype", name_of(tensor.type)}, {"shape", tensor.shape}, {"data_offsets", {offset, offset + *bytes}}};
    offset += *bytes;
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const nlohmann::json::exception&) {
    fail("cannot write {}: a tensor name or a metadata entry is not valid UTF-8", path.string());
  }
  std::size_t end = sizeof(uint64_t) + text.size();
  text.append((kAlignment - end % kAlignment) % kAlignment, ' ');
  return text;
}

}  // namespace safetensors_file

int64_t bytes_of(StoredType type) { return safetensors_file::row_of(type).bytes; }
const char* name_of(StoredType type) { return safetensors_file::row_of(type).name; }

std::string shape_text(const Shape& shape) {
  std::string out = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) out += fmt::format("{}{}", i == 0 ? "" : ", ", shape[i]);
  return out + "]";
}

const StoredTensor* SafetensorsView::find(const std::string& name) const {
  auto at = std::lower_bound(by_name.begin(), by_name.end(), name,
                             [this](std::size_t i, const std::string& word) { return tensors[i].name < word; });
  return at != by_name.end() && tensors[*at].name == name ? &tensors[*at] : nullptr;
}

SafetensorsView parse_safetensors(std::span<const std::byte> file, const std::string& source) {
  using namespace safetensors_file;
  Header header = read_header(file, source);
  uint64_t length = 0;
  std::memcpy(&length, file.data(), sizeof length);
  std::span<const std::byte> data = file.subspan(sizeof length + length);

  SafetensorsView view;
  view.metadata = std::move(header.metadata);
  view.tensors.reserve(header.entries.size());
  for (const Header::Entry& entry : header.entries) view.tensors.push_back(place_entry(entry, data, source));
  // An empty tensor comes before the one that begins at the same byte.
  std::stable_sort(view.tensors.begin(), view.tensors.end(), [](const StoredTensor& a, const StoredTensor& b) {
    auto end = [](const StoredTensor& t) { return t.bytes.data() + t.bytes.size(); };
    return a.bytes.data() != b.bytes.data() ? a.bytes.data() < b.bytes.data() : end(a) < end(b);
  });
  check_cover(view.tensors, data, source);

  view.by_name.resize(view.tensors.size());
  for (std::size_t i = 0; i < view.by_name.size(); ++i) view.by_name[i] = i;
  std::sort(view.by_name.begin(), view.by_name.end(),
            [&](std::size_t a, std::size_t b) { return view.tensors[a].name < view.tensors[b].name; });
  for (std::size_t i = 1; i < view.by_name.size(); ++i) {
    const std::string& name = view.tensors[view.by_name[i]].name;
    if (name == view.tensors[view.by_name[i - 1]].name) {
      fail_input("{}: tensor '{}' appears twice", source, printable(name));
    }
  }
  return view;
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path)
    : source_(path.string()), map_(path), view_(parse_safetensors(map_.bytes(), source_)) {}

void write_safetensors(const std::filesystem::path& path, std::vector<TensorSource> tensors,
                       const std::map<std::string, std::string>& metadata) {
  using namespace safetensors_file;
  std::sort(tensors.begin(), tensors.end(), [](const TensorSource& a, const TensorSource& b) {
    int64_t wide_a = bytes_of(a.type), wide_b = bytes_of(b.type);
    return wide_a != wide_b ? wide_a > wide_b : a.name < b.name;
  });
  std::vector<std::string> names;
  for (const TensorSource& tensor : tensors) names.push_back(tensor.name);
  std::sort(names.begin(), names.end());
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (names[i] == kMetadata || (i > 0 && names[i] == names[i - 1])) {
      fail("cannot write {}: the tensor name '{}' is {}", path.string(), names[i],
           names[i] == kMetadata ? "reserved" : "used twice");
    }
  }
  std::string header = header_text(tensors, metadata, path);
  write_file(path, [&](const ByteWriter& write) {
    uint64_t length = header.size();
    write(&length, sizeof length);
    write(header.data(), header.size());
    for (const TensorSource& tensor : tensors) {
      int64_t bytes = *size_in_bytes(tensor.type, tensor.shape), written = 0;
      tensor.write([&](const void* data, std::size_t size) {
        written += static_cast<int64_t>(size);
        write(data, size);
      });
      if (written != bytes) {
        fail("cannot write {}: tensor '{}' takes {} bytes, {} came", path.string(), tensor.name, bytes, written);
      }
    }
  });
}

}  // namespace rattan
