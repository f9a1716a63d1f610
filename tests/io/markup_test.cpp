#include "rattan/io/markup.h"

#include <gtest/gtest.h>

namespace rattan {

TEST(Markup, EscapesWhatMarkupWouldRead) {
  EXPECT_EQ(escape_markup("<a href='x'>\"&\"</a>"), "&lt;a href=&#39;x&#39;&gt;&quot;&amp;&quot;&lt;/a&gt;");
}

TEST(Markup, KeepsWellFormedUtf8) {
  std::string text = "gr\xC3\xBC\xC3\x9F \xE2\x82\xAC \xF0\x9F\x8C\xBE\n\ttab";
  EXPECT_EQ(escape_markup(text), text);
}

TEST(Markup, ReplacesBytesThatMarkupCannotHold) {
  const std::string bad = "\xEF\xBF\xBD";
  EXPECT_EQ(escape_markup("a\x01"
                          "b\x7F"),
            "a" + bad + "b" + bad);
  EXPECT_EQ(escape_markup("cut \xE2\x82"), "cut " + bad + bad);
  EXPECT_EQ(escape_markup("overlong \xC0\xAF"), "overlong " + bad + bad);
  EXPECT_EQ(escape_markup("surrogate \xED\xA0\x80"), "surrogate " + bad + bad + bad);
}

}  // namespace rattan
