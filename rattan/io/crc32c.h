// CRC-32C (Castagnoli polynomial 0x1EDC6F41, reflected; RFC 3720, appendix B.4).
#pragma once
#include <cstddef>
#include <cstdint>

namespace rattan {

// `crc` continues an earlier call: crc32c(ab) == crc32c(b, crc32c(a)).
uint32_t crc32c(const void* data, std::size_t bytes, uint32_t crc = 0);

}  // namespace rattan
