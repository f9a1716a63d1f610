// The text that `rattan demo` learns, in two parts: one to learn from, and its end to be tested on.
#pragma once
#include <filesystem>
#include <string>

namespace rattan::cli {

struct DemoText {
  std::string train, valid;
  std::string name, held_out;  // for people
};

// The King James text as Debian's `bible -f "gen1:1-rev22:21"` prints it, one verse a line; the last 1,500 of its
// 31,102 verses are held out. InputError if the program is not there, and how to get it.
DemoText king_james_text();

// Another text; its last 20th, from the start of a line if there is one, is held out. InputError if it cannot be
// read or is too short.
DemoText own_text(const std::filesystem::path& file);

}  // namespace rattan::cli
