#include "rattan/infer/stop.h"

#include <gtest/gtest.h>

#include "rattan/base/error.h"
#include "rattan/base/random.h"

namespace rattan::infer::stop_test {

TEST(StopMatcher, HoldsBackWhatMayBecomeAMatch) {
  StopMatcher stop({"END"});
  EXPECT_EQ(stop.push("aE"), "a");
  EXPECT_EQ(stop.push("N"), "");
  EXPECT_EQ(stop.push("E"), "EN");  // "EN" was no match; the new E may still be
  EXPECT_EQ(stop.push("ND and more"), "");
  EXPECT_TRUE(stop.stopped());
  EXPECT_EQ(stop.matched(), "END");
  EXPECT_EQ(stop.push("x"), "");
}

TEST(StopMatcher, LetsGoOfAnUnfinishedMatchAtTheEnd) {
  StopMatcher stop({"\n\n"});
  EXPECT_EQ(stop.push("a\n"), "a");
  EXPECT_EQ(stop.finish(), "\n");
  EXPECT_FALSE(stop.stopped());
}

TEST(StopMatcher, TakesTheMatchThatEndsFirst) {
  StopMatcher stop({"abcd", "bc"});
  EXPECT_EQ(stop.push("xabcd"), "xa");
  EXPECT_EQ(stop.matched(), "bc");
}

TEST(StopMatcher, RefusesAnEmptyStopString) { EXPECT_THROW(StopMatcher({"a", ""}), InputError); }

TEST(StopMatcher, WithoutStopStringsEverythingPassesAtOnce) {
  StopMatcher stop({});
  EXPECT_EQ(stop.push("abc"), "abc");
}

// The place of the earliest end of any stop string, by trying all.
std::string expected_text(const std::string& text, const std::vector<std::string>& stops, bool& stopped) {
  for (std::size_t end = 1; end <= text.size(); ++end) {
    std::size_t longest = 0;
    for (const std::string& stop : stops)
      if (std::string_view(text).substr(0, end).ends_with(stop)) longest = std::max(longest, stop.size());
    if (longest > 0) return stopped = true, text.substr(0, end - longest);
  }
  return stopped = false, text;
}

TEST(StopMatcher, AnyCutGivesTheTextBeforeTheFirstMatch) {
  for (uint64_t seed = 0; seed < 500; ++seed) {
    SCOPED_TRACE(seed);
    Rng rng(seed);
    auto word = [&](std::size_t n) {
      std::string out;
      while (out.size() < n) out += "ab"[rng.below(2)];
      return out;
    };
    const std::vector<std::string> stops = {word(1 + rng.below(6)), word(3 + rng.below(4))};
    const std::string text = word(30);
    bool stopped = false;
    const std::string expected = expected_text(text, stops, stopped);
    StopMatcher stop(stops);
    std::string out;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t n = std::min<std::size_t>(1 + rng.below(4), text.size() - at);
      out += stop.push(std::string_view(text).substr(at, n));
      ASSERT_TRUE(expected.starts_with(out)) << "a part of a stop string got out";
      at += n;
    }
    out += stop.finish();
    EXPECT_EQ(out, expected);
    EXPECT_EQ(stop.stopped(), stopped);
  }
}

}  // namespace rattan::infer::stop_test
