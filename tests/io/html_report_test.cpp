#include "rattan/io/html_report.h"

#include <gtest/gtest.h>

#include <regex>

namespace rattan {

TEST(HtmlReport, IsOnePageThatLoadsNothing) {
  HtmlReport report("run <1>", "three layers");
  report.section("Curves");
  report.plots({{.title = "loss", .series = {{.name = "train", .x = {1, 2}, .y = {3, 2}}}}});
  report.section("Samples");
  report.preformatted("a < b & \"c\"\xFF", "step 100");
  report.key_values({{"lr", "8e-4"}});
  report.figures({{"bits per byte", "1.66"}});
  report.table({"step", "loss"}, {{"1", "3.0"}});
  report.folded("configuration", "[train]\nlr = 1");
  std::string html = report.html();
  EXPECT_TRUE(html.starts_with("<!doctype html>"));
  EXPECT_FALSE(std::regex_search(html, std::regex("(src|href)=|@import|url\\(|<script")));
  EXPECT_NE(html.find("run &lt;1&gt;"), std::string::npos);
  EXPECT_NE(html.find("a &lt; b &amp; &quot;c&quot;\xEF\xBF\xBD"), std::string::npos);
  EXPECT_NE(html.find("@media print"), std::string::npos);
  EXPECT_NE(html.find("prefers-color-scheme:dark"), std::string::npos);
  EXPECT_NE(html.find("name='viewport'"), std::string::npos);
}

TEST(HtmlReport, EveryElementIsClosed) {
  HtmlReport report("title");
  report.section("a");
  report.plots({{.series = {{.name = "x", .x = {1, 2, 3}, .y = {1, 4, 9}, .markers = true}}}});
  report.section("b");
  report.table({"h"}, {{"1"}, {"2"}});
  report.folded("s", "t");
  std::string html = report.html();
  for (const char* tag : {"section", "table", "tr", "svg", "figure", "details", "pre", "text", "div", "body", "html"}) {
    auto count = [&](const std::string& pattern) {
      std::regex regex(pattern);
      return std::distance(std::sregex_iterator(html.begin(), html.end(), regex), std::sregex_iterator());
    };
    std::string name = tag;
    EXPECT_EQ(count("<" + name + "[ >]"), count("</" + name + ">")) << tag;
  }
}

}  // namespace rattan
