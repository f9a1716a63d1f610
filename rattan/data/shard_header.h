// The first 64 bytes of a token shard (shard.h).
#pragma once
#include <bit>
#include <cstdint>
#include <cstring>

#include "rattan/data/checksum.h"

namespace rattan {

static_assert(std::endian::native == std::endian::little, "token shards are read as they stand in memory");

constexpr uint64_t kShardMagic = 0x4452414853544152;  // "RATSHARD"
constexpr uint32_t kShardVersion = 1;

struct ShardHeader {
  uint64_t magic = kShardMagic;
  uint32_t version = kShardVersion, id_bytes = 2;
  uint64_t tokens = 0, documents = 0, vocab_size = 0, reserved = 0;
  uint64_t checksum = 0, own_checksum = 0;

  uint64_t make_checksum() const {
    char bytes[56];
    std::memcpy(bytes, this, sizeof bytes);
    return rattan::checksum({bytes, sizeof bytes});
  }
};
static_assert(sizeof(ShardHeader) == 64);

inline uint64_t padded(uint64_t bytes) { return (bytes + 7) / 8 * 8; }

}  // namespace rattan
