// The code of docs/adding-a-mixer.md is the mixer that is compiled beside this file and that the generic suite of
// tests/nn checks.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

#include "rattan/base/files.h"

namespace rattan::probes {
namespace walkthrough_test_file {

using Lines = std::vector<std::string>;

// The lines that are not empty; of a Markdown text those between ```cpp and ``` alone.
Lines lines_of(const std::filesystem::path& path, bool markdown) {
  Lines out;
  std::istringstream text(read_file(path));
  bool inside = !markdown;
  for (std::string line; std::getline(text, line);) {
    if (markdown && line.starts_with("```")) {
      inside = line == "```cpp";
    } else if (inside && !line.empty()) {
      out.push_back(line);
    }
  }
  return out;
}

TEST(Walkthrough, TheDocumentShowsTheCompiledCode) {
  const std::filesystem::path tests = RATTAN_TEST_DATA;
  const Lines shown = lines_of(tests.parent_path() / "docs" / "adding-a-mixer.md", true);
  const Lines compiled = lines_of(tests / "probes" / "walkthrough_mixer.cpp", false);
  ASSERT_GT(compiled.size(), 50u);
  EXPECT_THAT(shown, testing::ElementsAreArray(compiled));
}

}  // namespace walkthrough_test_file
}  // namespace rattan::probes
