// UTF-8 as RFC 3629 defines it: no overlong forms, no surrogates, nothing above U+10FFFF.
#pragma once
#include <cstddef>
#include <string_view>

namespace rattan {

// The length of the character at the start of `text`: 1 to 4, or 0 if no valid character stands there.
std::size_t utf8_length(std::string_view text);

// The length of the longest prefix that does not end within a character that could still be completed; so a
// stream that prints text[0, utf8_complete(text)) and keeps the rest never breaks one. Invalid bytes count as
// complete. The rest is at most 3 bytes.
std::size_t utf8_complete(std::string_view text);

}  // namespace rattan
