// A token shard is either refused with InputError or can be read from end to end. Three ways at each input: as it
// stands, with its checksums made right (else no damage behind the header would be reached), and as the manifest
// of packed data.
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "rattan/base/error.h"
#include "rattan/data/dataset.h"
#include "rattan/data/shard.h"
#include "rattan/data/shard_header.h"

namespace rattan::shard_fuzz {

void read_all(const std::string& path) {
  for (bool verify : {false, true}) {
    try {
      Shard shard(path, verify);
      std::vector<int64_t> ids;
      for (int64_t i = 0; i < shard.documents(); ++i) {
        Document document = shard.document(i);
        ids.resize(static_cast<std::size_t>(document.end - document.begin));
        shard.read(document.begin, ids);
        if (verify && shard.document_at(document.begin) != i) std::abort();
      }
    } catch (const InputError&) {
    }
  }
}

void write(const std::string& path, const std::string& content) { std::ofstream(path, std::ios::binary) << content; }

void check(std::string content) {
  static const std::string path =
      (std::filesystem::temp_directory_path() / ("shard-fuzz-" + std::to_string(getpid()))).string();
  write(path, content);
  read_all(path);
  if (content.size() >= sizeof(ShardHeader)) {
    ShardHeader header;
    std::memcpy(&header, content.data(), sizeof header);
    header.magic = kShardMagic;
    header.version = kShardVersion;
    header.checksum = checksum(std::string_view(content).substr(sizeof header));
    header.own_checksum = header.make_checksum();
    std::memcpy(content.data(), &header, sizeof header);
    write(path, content);
    read_all(path);
  }
  try {
    Manifest manifest = Manifest::from_json(content, "fuzz");
    if (Manifest::from_json(manifest.to_json(), "again").to_json() != manifest.to_json()) std::abort();
  } catch (const InputError&) {
  }
}

}  // namespace rattan::shard_fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  rattan::shard_fuzz::check({reinterpret_cast<const char*>(data), size});
  return 0;
}
