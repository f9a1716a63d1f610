// The lines that a person or a program types.
#pragma once
#include <memory>
#include <optional>
#include <string>

namespace rattan::cli {

struct Line {
  enum class Kind : int8_t { text, end, interrupted } kind = Kind::end;
  std::string text;  // without the end of the line
};

class Lines {
 public:
  virtual ~Lines() = default;
  // The next line; `prompt` is shown to people. Error if reading fails.
  virtual Line next(const std::string& prompt) = 0;
};

// From standard input as it comes; `prompted`: with the prompt on stderr. A carriage return at the end of a line is not
// part of it.
std::unique_ptr<Lines> plain_lines(bool prompted);

// At a terminal: arrow keys, Ctrl-A, Ctrl-E, Ctrl-K and the like, Ctrl-R to search what was typed before; what is shown
// goes to stderr. The editor is libedit, loaded when it is wanted; without that library lines are plain ones and
// `warning` says so.
std::unique_ptr<Lines> edited_lines(std::string& warning);

}  // namespace rattan::cli
