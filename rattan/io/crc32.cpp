#include "rattan/io/crc32.h"

#include <zlib.h>

#include <algorithm>
#include <vector>

#include "rattan/base/parallel.h"

namespace rattan {

uint32_t crc32_of(std::span<const std::byte> bytes) {
  constexpr std::size_t kPiece = std::size_t{8} << 20;
  int64_t pieces = ceil_div(static_cast<int64_t>(bytes.size()), static_cast<int64_t>(kPiece));
  std::vector<uLong> sums(static_cast<std::size_t>(pieces));
  auto piece = [&](int64_t i) {
    std::size_t begin = static_cast<std::size_t>(i) * kPiece;
    return bytes.subspan(begin, std::min(kPiece, bytes.size() - begin));
  };
  parallel_for(pieces, [&](int64_t i) {
    auto part = piece(i);
    sums[static_cast<std::size_t>(i)] = ::crc32_z(0, reinterpret_cast<const Bytef*>(part.data()), part.size());
  });
  uLong sum = 0;
  for (int64_t i = 0; i < pieces; ++i) {
    sum = ::crc32_combine(sum, sums[static_cast<std::size_t>(i)], static_cast<z_off_t>(piece(i).size()));
  }
  return static_cast<uint32_t>(sum);
}

}  // namespace rattan
