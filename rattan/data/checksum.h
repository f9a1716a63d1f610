// XXH64 (Y. Collet's xxHash, 64-bit variant): quick, and good enough to find damage; not against forgery.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace rattan {

class Checksum {
 public:
  explicit Checksum(uint64_t seed = 0);
  void add(const void* data, std::size_t bytes);  // in any portions
  uint64_t value() const;

 private:
  uint64_t lanes_[4];
  uint64_t seed_, total_ = 0;
  unsigned char buffer_[32];
  std::size_t held_ = 0;
};

uint64_t checksum(std::string_view data, uint64_t seed = 0);
std::string checksum_text(uint64_t value);  // 16 hexadecimal digits

}  // namespace rattan
