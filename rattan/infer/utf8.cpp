#include "rattan/infer/utf8.h"

#include "rattan/data/utf8.h"

namespace rattan::infer {
namespace utf8_file {

// The bytes at the start that begin like a character: all but the last can be continued.
std::size_t maximal_subpart(std::string_view text) {
  std::size_t n = 1;
  while (n < text.size() && utf8_complete(text.substr(0, n)) == 0 && utf8_complete(text.substr(0, n + 1)) == 0) ++n;
  return n;
}

}  // namespace utf8_file

std::string valid_utf8(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size());
  while (!bytes.empty()) {
    std::size_t n = utf8_length(bytes);
    if (n > 0) {
      out += bytes.substr(0, n);
    } else {
      out += "\uFFFD";
      n = utf8_file::maximal_subpart(bytes);
    }
    bytes.remove_prefix(n);
  }
  return out;
}

std::string Utf8Stream::push(std::string_view bytes) {
  pending_ += bytes;
  const std::size_t complete = utf8_complete(pending_);
  std::string out = valid_utf8(std::string_view(pending_).substr(0, complete));
  pending_.erase(0, complete);
  return out;
}

std::string Utf8Stream::finish() {
  std::string out = valid_utf8(pending_);
  pending_.clear();
  return out;
}

}  // namespace rattan::infer
