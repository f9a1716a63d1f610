#include "rattan/io/markup.h"

#include <cstddef>
#include <cstdint>

namespace rattan {
namespace markup_file {

// Bytes of the well-formed UTF-8 character at `i`, 0 if there is none (Unicode 15, table 3-7).
std::size_t character_length(std::string_view text, std::size_t i) {
  auto byte = [&](std::size_t k) { return k < text.size() ? static_cast<uint8_t>(text[k]) : 0; };
  auto within = [](int x, int low, int high) { return x >= low && x <= high; };
  int a = byte(i), b = byte(i + 1);
  bool third = within(byte(i + 2), 0x80, 0xBF), fourth = within(byte(i + 3), 0x80, 0xBF);
  if (a < 0x80) return 1;
  if (within(a, 0xC2, 0xDF)) return within(b, 0x80, 0xBF) ? 2 : 0;
  if (within(a, 0xE0, 0xEF)) {
    return within(b, a == 0xE0 ? 0xA0 : 0x80, a == 0xED ? 0x9F : 0xBF) && third ? 3 : 0;
  }
  if (within(a, 0xF0, 0xF4)) {
    return within(b, a == 0xF0 ? 0x90 : 0x80, a == 0xF4 ? 0x8F : 0xBF) && third && fourth ? 4 : 0;
  }
  return 0;
}

const char* entity(char c) {
  switch (c) {
    case '&':
      return "&amp;";
    case '<':
      return "&lt;";
    case '>':
      return "&gt;";
    case '"':
      return "&quot;";
    case '\'':
      return "&#39;";
    default:
      return nullptr;
  }
}

bool is_control(char c) {
  auto u = static_cast<uint8_t>(c);
  return (u < 0x20 && c != '\t' && c != '\n') || u == 0x7F;
}

}  // namespace markup_file

std::string escape_markup(std::string_view text) {
  using namespace markup_file;
  std::string out;
  out.reserve(text.size() + text.size() / 8);
  for (std::size_t i = 0; i < text.size();) {
    std::size_t length = character_length(text, i);
    if (length == 0 || (length == 1 && is_control(text[i]))) {
      out += "\xEF\xBF\xBD";
      ++i;
    } else if (const char* name = length == 1 ? entity(text[i]) : nullptr) {
      out += name;
      ++i;
    } else {
      out += text.substr(i, length);
      i += length;
    }
  }
  return out;
}

}  // namespace rattan
