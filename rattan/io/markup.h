// Text made safe for HTML, XML and SVG.
#pragma once
#include <string>
#include <string_view>

namespace rattan {

// Escapes & < > " ' and replaces what those formats cannot hold (bytes that are not UTF-8, control characters
// other than tab and newline) by U+FFFD.
std::string escape_markup(std::string_view text);

}  // namespace rattan
