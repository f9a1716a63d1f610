#include "rattan/data/checksum.h"

#include <fmt/core.h>

#include <algorithm>
#include <bit>
#include <cstring>

namespace rattan {
namespace checksum_file {

constexpr uint64_t kP1 = 0x9E3779B185EBCA87, kP2 = 0xC2B2AE3D27D4EB4F, kP3 = 0x165667B19E3779F9,
                   kP4 = 0x85EBCA77C2B2AE63, kP5 = 0x27D4EB2F165667C5;

template <class T>
uint64_t load(const unsigned char* p) {
  T x;
  std::memcpy(&x, p, sizeof x);
  return x;
}

uint64_t round(uint64_t lane, uint64_t input) { return std::rotl(lane + input * kP2, 31) * kP1; }

void stripes(uint64_t lanes[4], const unsigned char* p, std::size_t count) {
  uint64_t a = lanes[0], b = lanes[1], c = lanes[2], d = lanes[3];
  for (; count > 0; --count, p += 32) {
    a = round(a, load<uint64_t>(p));
    b = round(b, load<uint64_t>(p + 8));
    c = round(c, load<uint64_t>(p + 16));
    d = round(d, load<uint64_t>(p + 24));
  }
  lanes[0] = a, lanes[1] = b, lanes[2] = c, lanes[3] = d;
}

}  // namespace checksum_file

Checksum::Checksum(uint64_t seed) : seed_(seed) {
  using namespace checksum_file;
  lanes_[0] = seed + kP1 + kP2;
  lanes_[1] = seed + kP2;
  lanes_[2] = seed;
  lanes_[3] = seed - kP1;
}

void Checksum::add(const void* data, std::size_t bytes) {
  const auto* p = static_cast<const unsigned char*>(data);
  if (bytes == 0) return;
  total_ += bytes;
  if (held_ > 0) {
    std::size_t taken = std::min(bytes, sizeof buffer_ - held_);
    std::memcpy(buffer_ + held_, p, taken);
    held_ += taken, p += taken, bytes -= taken;
    if (held_ < sizeof buffer_) return;
    checksum_file::stripes(lanes_, buffer_, 1);
    held_ = 0;
  }
  checksum_file::stripes(lanes_, p, bytes / 32);
  held_ = bytes % 32;
  std::memcpy(buffer_, p + (bytes - held_), held_);
}

uint64_t Checksum::value() const {
  using namespace checksum_file;
  uint64_t h = seed_ + kP5;
  if (total_ >= 32) {
    h = std::rotl(lanes_[0], 1) + std::rotl(lanes_[1], 7) + std::rotl(lanes_[2], 12) + std::rotl(lanes_[3], 18);
    for (uint64_t lane : lanes_) h = (h ^ round(0, lane)) * kP1 + kP4;
  }
  h += total_;
  const unsigned char* p = buffer_;
  std::size_t left = held_;
  for (; left >= 8; left -= 8, p += 8) h = std::rotl(h ^ round(0, load<uint64_t>(p)), 27) * kP1 + kP4;
  if (left >= 4) {
    h = std::rotl(h ^ (load<uint32_t>(p) * kP1), 23) * kP2 + kP3;
    left -= 4, p += 4;
  }
  for (; left > 0; --left, ++p) h = std::rotl(h ^ (*p * kP5), 11) * kP1;
  h = (h ^ (h >> 33)) * kP2;
  h = (h ^ (h >> 29)) * kP3;
  return h ^ (h >> 32);
}

uint64_t checksum(std::string_view data, uint64_t seed) {
  Checksum sum(seed);
  sum.add(data.data(), data.size());
  return sum.value();
}

std::string checksum_text(uint64_t value) { return fmt::format("{:016x}", value); }

}  // namespace rattan
