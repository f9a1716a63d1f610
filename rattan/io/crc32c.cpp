#include "rattan/io/crc32c.h"

#include <array>

namespace rattan {
namespace crc32c_file {

constexpr std::array<uint32_t, 256> make_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t r = i;
    for (int bit = 0; bit < 8; ++bit) r = (r >> 1) ^ (r & 1 ? 0x82F63B78u : 0);
    table[i] = r;
  }
  return table;
}
constexpr std::array<uint32_t, 256> table = make_table();

}  // namespace crc32c_file

uint32_t crc32c(const void* data, std::size_t bytes, uint32_t crc) {
  const auto* p = static_cast<const uint8_t*>(data);
  crc = ~crc;
  for (std::size_t i = 0; i < bytes; ++i) crc = (crc >> 8) ^ crc32c_file::table[(crc ^ p[i]) & 0xFF];
  return ~crc;
}

}  // namespace rattan
