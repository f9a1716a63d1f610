#include "rattan/cli/chat_lines.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "rattan/base/error.h"
#include "rattan/cli/chat_interrupt.h"

namespace rattan::cli {
namespace chat_lines_file {

class PlainLines : public Lines {
 public:
  explicit PlainLines(bool prompted) : prompted_(prompted) {}

  Line next(const std::string& prompt) override {
    if (prompted_) fmt::print(stderr, "{}", prompt);
    for (;;) {
      if (const std::size_t end = held_.find('\n'); end != std::string::npos) return take(end, 1);
      char buffer[4096];
      const ssize_t n = read(STDIN_FILENO, buffer, sizeof buffer);
      if (n > 0) {
        held_.append(buffer, static_cast<std::size_t>(n));
      } else if (n == 0) {
        return held_.empty() ? nothing(Line::Kind::end) : take(held_.size(), 0);
      } else if (errno != EINTR) {
        fail("cannot read standard input: {}", std::strerror(errno));
      } else if (ChatInterrupt::requested()) {
        return nothing(Line::Kind::interrupted);
      }
    }
  }

 private:
  Line nothing(Line::Kind kind) const {
    if (prompted_) fmt::print(stderr, "\n");
    return {kind, ""};
  }

  Line take(std::size_t end, std::size_t more) {
    Line line{Line::Kind::text, held_.substr(0, end)};
    held_.erase(0, end + more);
    if (line.text.ends_with('\r')) line.text.pop_back();
    return line;
  }

  const bool prompted_;
  std::string held_;
};

}  // namespace chat_lines_file

std::unique_ptr<Lines> plain_lines(bool prompted) { return std::make_unique<chat_lines_file::PlainLines>(prompted); }

}  // namespace rattan::cli
