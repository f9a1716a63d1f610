#include "rattan/cli/demo_text.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <sstream>

#include "rattan/base/error.h"
#include "rattan/base/files.h"

namespace rattan::cli {
namespace demo_text_file {

namespace fs = std::filesystem;

constexpr char kProgram[] = "bible";
constexpr char kCommand[] = "bible -f gen1:1-rev22:21";
constexpr std::ptrdiff_t kVerses = 31102, kHeldOutVerses = 1500;

bool on_path(const std::string& program) {
  const char* path = std::getenv("PATH");
  std::istringstream folders(path ? path : "");
  for (std::string folder; std::getline(folders, folder, ':');) {
    const fs::path file = fs::path(folder.empty() ? "." : folder) / program;
    std::error_code none;
    if (fs::is_regular_file(file, none) && access(file.c_str(), X_OK) == 0) return true;
  }
  return false;
}

std::string output_of(const char* command) {
  std::FILE* pipe = popen(command, "r");
  if (!pipe) fail("cannot run `{}`", command);
  std::string text;
  std::array<char, 1 << 16> buffer;
  while (std::size_t n = std::fread(buffer.data(), 1, buffer.size(), pipe)) text.append(buffer.data(), n);
  const int status = pclose(pipe);
  if (status != 0) fail("`{}` failed (status {})", command, status);
  return text;
}

// The start of the last `count` lines; `text` ends with a line break.
std::size_t last_lines(const std::string& text, std::ptrdiff_t count) {
  std::size_t at = text.size() - 1;
  for (; count > 0; --count) at = text.rfind('\n', at - 1);
  return at + 1;
}

}  // namespace demo_text_file

DemoText king_james_text() {
  using namespace demo_text_file;
  require(on_path(kProgram),
          "the program '{}', which prints the King James text, is not installed. Debian and Ubuntu have it in the "
          "package bible-kjv: apt-get install bible-kjv. Or give another text: --text FILE",
          kProgram);
  std::string text = output_of(kCommand);
  const auto verses = std::count(text.begin(), text.end(), '\n');
  require(verses == kVerses && text.back() == '\n',
          "`{}` printed {} lines; expected {}, one a verse, as the one of Debian's package bible-kjv does. Or give "
          "another text: --text FILE",
          kCommand, verses, kVerses);
  const std::size_t cut = last_lines(text, kHeldOutVerses);
  return {text.substr(0, cut), text.substr(cut), "the King James text", "the last 1,500 verses"};
}

DemoText own_text(const std::filesystem::path& file) {
  std::string text = read_file(file);
  require(text.size() >= 2000, "{}: a text of {} bytes is too short to learn anything from; 2,000 are the least",
          file.string(), text.size());
  std::size_t cut = text.size() - text.size() / 20;
  if (const std::size_t line = text.rfind('\n', cut); line != std::string::npos && line > text.size() / 2)
    cut = line + 1;
  else
    while ((static_cast<unsigned char>(text[cut]) & 0xC0) == 0x80) --cut;  // not within a character of UTF-8
  return {text.substr(0, cut), text.substr(cut), file.string(), fmt::format("its last {} bytes", text.size() - cut)};
}

}  // namespace rattan::cli
