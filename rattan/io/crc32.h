// CRC-32 (the polynomial of zlib and PNG) of large blocks, by all threads.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

namespace rattan {

uint32_t crc32_of(std::span<const std::byte> bytes);

}  // namespace rattan
