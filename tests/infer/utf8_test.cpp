#include "rattan/infer/utf8.h"

#include <gtest/gtest.h>

#include "rattan/base/random.h"
#include "rattan/data/utf8.h"

namespace rattan::infer::utf8_test {

std::string in_pieces(const std::string& text, Rng& rng) {
  Utf8Stream stream;
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t n = std::min<std::size_t>(1 + rng.below(3), text.size() - at);
    const std::string piece = stream.push(std::string_view(text).substr(at, n));
    EXPECT_EQ(valid_utf8(piece), piece) << "a piece that is shown must be whole characters";
    out += piece;
    at += n;
  }
  return out + stream.finish();
}

TEST(Utf8Stream, ShowsCharactersOnlyWhenTheyAreWhole) {
  Utf8Stream stream;
  EXPECT_EQ(stream.push("a\xE2\x82"), "a");
  EXPECT_EQ(stream.push("\xAC!"), "\u20AC!");
  EXPECT_EQ(stream.push("\xF0\x9F"), "");
  EXPECT_EQ(stream.finish(), "\uFFFD");
  EXPECT_EQ(stream.finish(), "");
}

TEST(Utf8Stream, ReplacesWhatCanNeverBecomeACharacter) {
  EXPECT_EQ(valid_utf8("\xFF"
                       "a\x80"),
            "\uFFFD"
            "a\uFFFD");
  EXPECT_EQ(valid_utf8("\xE2\x82"
                       "A"),
            "\uFFFD"
            "A");                                               // one for the start of a character
  EXPECT_EQ(valid_utf8("\xED\xA0\x80"), "\uFFFD\uFFFD\uFFFD");  // a surrogate: no byte starts anything
  EXPECT_EQ(valid_utf8("\xF0\x9F\x98"), "\uFFFD");
}

TEST(Utf8Stream, AnyCutGivesTheTextOfTheWhole) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE(seed);
    Rng rng(seed);
    const std::string alphabet = "a\xC3\xE2\x82\xAC\xF0\x9F\x98\x80\xFF";
    std::string text;
    for (int i = 0; i < 40; ++i) text += alphabet[rng.below(alphabet.size())];
    EXPECT_EQ(in_pieces(text, rng), valid_utf8(text));
  }
}

}  // namespace rattan::infer::utf8_test
