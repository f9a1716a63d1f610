#include "rattan/data/utf8.h"

#include <cstdint>

namespace rattan {
namespace utf8_file {

bool continues(unsigned char c) { return (c & 0xC0) == 0x80; }

// How many bytes the character that starts with `lead` has, 0 if none starts so; and the range of its second.
std::size_t expected(unsigned char lead, unsigned char& low, unsigned char& high) {
  low = 0x80, high = 0xBF;
  if (lead < 0x80) return 1;
  if (lead >= 0xC2 && lead <= 0xDF) return 2;
  if (lead >= 0xE0 && lead <= 0xEF) {
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
    return 3;
  }
  if (lead >= 0xF0 && lead <= 0xF4) {
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
    return 4;
  }
  return 0;
}

// The number of bytes at the start that fit a character of `want` bytes.
std::size_t fitting(std::string_view text, std::size_t want, unsigned char low, unsigned char high) {
  std::size_t n = 1;
  if (want > 1 && text.size() > 1) {
    auto second = static_cast<unsigned char>(text[1]);
    if (second < low || second > high) return n;
    for (n = 2; n < want && n < text.size() && continues(static_cast<unsigned char>(text[n]));) ++n;
  }
  return n;
}

}  // namespace utf8_file

std::size_t utf8_length(std::string_view text) {
  if (text.empty()) return 0;
  unsigned char low, high;
  std::size_t want = utf8_file::expected(static_cast<unsigned char>(text[0]), low, high);
  if (want <= 1) return want;
  return utf8_file::fitting(text, want, low, high) == want ? want : 0;
}

std::size_t utf8_complete(std::string_view text) {
  for (std::size_t back = 1; back <= 3 && back <= text.size(); ++back) {
    std::string_view tail = text.substr(text.size() - back);
    unsigned char low, high;
    std::size_t want = utf8_file::expected(static_cast<unsigned char>(tail[0]), low, high);
    if (want > back && utf8_file::fitting(tail, want, low, high) == back) return text.size() - back;
    if (!utf8_file::continues(static_cast<unsigned char>(tail[0]))) break;
  }
  return text.size();
}

}  // namespace rattan
