// A hash of token ids that goes on from that of the ids before (FNV-1a).
#pragma once
#include <cstdint>
#include <span>

namespace rattan::infer {

inline constexpr uint64_t prefix_hash_start = 0xcbf29ce484222325u;

inline uint64_t prefix_hash(uint64_t before, std::span<const int32_t> ids) {
  uint64_t hash = before;
  for (int32_t id : ids) hash = (hash ^ static_cast<uint32_t>(id)) * 0x100000001b3u;
  return hash;
}

}  // namespace rattan::infer
