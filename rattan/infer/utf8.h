// Text that arrives in pieces of bytes, made printable: whole UTF-8 characters only.
#pragma once
#include <string>
#include <string_view>

namespace rattan::infer {

class Utf8Stream {
 public:
  // The characters that are complete now. Bytes that can never become one turn into U+FFFD, one for each maximal
  // run that starts like a character (Unicode 15, section 3.9, "substitution of maximal subparts").
  std::string push(std::string_view bytes);
  // What is left; a character that was begun becomes U+FFFD.
  std::string finish();

 private:
  std::string pending_;  // the start of a character, at most 3 bytes
};

// The whole of a text at once.
std::string valid_utf8(std::string_view bytes);

}  // namespace rattan::infer
