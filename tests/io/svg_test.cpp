#include "rattan/io/svg.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "rattan/base/error.h"

namespace rattan {
namespace svg_test_file {

using testing::ElementsAre;

// The path data of the k-th drawn line (axes and grid have other attributes).
std::string line_data(const std::string& svg, int k) {
  std::size_t at = 0;
  for (int i = 0; i <= k; ++i) at = svg.find("stroke-linejoin='round'", at) + 1;
  std::size_t begin = svg.find(" d='", at) + 4;
  return svg.substr(begin, svg.find('\'', begin) - begin);
}

TEST(SvgTicks, LinearStepsAreRoundAndLabelsShareOneForm) {
  EXPECT_THAT(choose_ticks(0, 10, Scale::linear, 5).label, ElementsAre("0", "2", "4", "6", "8", "10"));
  EXPECT_THAT(choose_ticks(1.31, 1.92, Scale::linear, 4).label, ElementsAre("1.4", "1.6", "1.8"));
  EXPECT_THAT(choose_ticks(0, 8000, Scale::linear, 4).label, ElementsAre("0", "2,000", "4,000", "6,000", "8,000"));
  EXPECT_THAT(choose_ticks(0, 60000, Scale::linear, 3).label, ElementsAre("0", "20k", "40k", "60k"));
  EXPECT_THAT(choose_ticks(-1, 1, Scale::linear, 4).label, ElementsAre("-1.0", "-0.5", "0", "0.5", "1.0"));
  EXPECT_THAT(choose_ticks(1, 12, Scale::linear, 5).label, ElementsAre("2.5", "5.0", "7.5", "10.0"));
  EXPECT_THAT(choose_ticks(0, 8e-4, Scale::linear, 4).label, ElementsAre("0", "0.0002", "0.0004", "0.0006", "0.0008"));
}

TEST(SvgTicks, LogarithmicTicksAreWholePowers) {
  EXPECT_THAT(choose_ticks(1000, 150000, Scale::log2, 8).label,
              ElementsAre("1,024", "2,048", "4,096", "8,192", "16,384", "32,768", "65,536", "131,072"));
  EXPECT_THAT(choose_ticks(1000, 150000, Scale::log2, 4).label,
              ElementsAre("1,024", "", "4,096", "", "16,384", "", "65,536", ""));
  EXPECT_THAT(choose_ticks(0.5, 2000, Scale::log10, 5).at, testing::IsSupersetOf({1.0, 10.0, 100.0, 1000.0}));
}

TEST(SvgTicks, StayInsideTheRange) {
  for (Scale scale : {Scale::linear, Scale::log2, Scale::log10}) {
    for (double low : {1e-9, 0.37, 1.0, 4096.0}) {
      for (double width : {1.001, 1.7, 12.0, 1e6}) {
        Ticks ticks = choose_ticks(low, low * width, scale, 6);
        ASSERT_EQ(ticks.at.size(), ticks.label.size());
        for (double at : ticks.at) {
          EXPECT_GE(at, low * (1 - 1e-6)) << low << " " << width;
          EXPECT_LE(at, low * width * (1 + 1e-6)) << low << " " << width;
        }
      }
    }
  }
}

TEST(SvgTicks, RefuseAxesThatCannotBeDrawn) {
  EXPECT_THROW(choose_ticks(2, 1, Scale::linear, 5), InputError);
  EXPECT_THROW(choose_ticks(0, 1, Scale::log10, 5), InputError);
  EXPECT_THROW(choose_ticks(0, std::numeric_limits<double>::infinity(), Scale::linear, 5), InputError);
}

TEST(Svg, ALineBreaksWhereAValueCannotBeShown) {
  double nan = std::numeric_limits<double>::quiet_NaN();
  std::string svg = to_svg({.series = {{.name = "a", .x = {0, 1, 2, 3, 4}, .y = {1, 2, nan, 4, 5}}}});
  std::string data = line_data(svg, 0);
  EXPECT_EQ(std::count(data.begin(), data.end(), 'M'), 2);
  EXPECT_EQ(std::count(data.begin(), data.end(), 'L'), 2);
  EXPECT_EQ(svg.find("nan"), std::string::npos);
}

TEST(Svg, ThinningKeepsPeaksAndEnds) {
  Series s{.name = "spiky"};
  for (int i = 0; i < 200000; ++i) {
    s.x.push_back(i);
    s.y.push_back(i == 123456 ? 1000 : std::sin(i));
  }
  Plot plot{.series = {s}};
  std::string svg = to_svg(plot);
  EXPECT_LT(svg.size(), 40000u);
  // With the peak taken out the axis shrinks, so its presence shows in the line's highest point (least y).
  std::string data = line_data(svg, 0);
  double highest = 1e9;
  for (std::size_t at = data.find(' '); at != std::string::npos; at = data.find(' ', at + 1)) {
    highest = std::min(highest, std::stod(data.substr(at + 1)));
  }
  EXPECT_LT(highest, 80);
}

TEST(Svg, NamesAreEscapedAndEmptyPlotsSaySo) {
  std::string svg = to_svg({.title = "a<b & c", .series = {{.name = "<script>"}}});
  EXPECT_EQ(svg.find("<script>"), std::string::npos);
  EXPECT_NE(svg.find("a&lt;b &amp; c"), std::string::npos);
  EXPECT_NE(svg.find("no data"), std::string::npos);
}

TEST(Svg, OneValueAndNonPositiveLogValuesDoNotBreakTheAxes) {
  std::string flat = to_svg({.series = {{.x = {5}, .y = {0}, .markers = true}}});
  EXPECT_EQ(flat.find("nan"), std::string::npos);
  std::string log = to_svg({.y_scale = Scale::log10, .series = {{.x = {1, 2, 3}, .y = {0, -1, 10}, .markers = true}}});
  EXPECT_EQ(log.find("nan"), std::string::npos);
  EXPECT_EQ(log.find("inf"), std::string::npos);
}

TEST(Svg, SeriesOfUnequalLengthsAreRefused) {
  EXPECT_THROW(to_svg({.series = {{.name = "a", .x = {1, 2}, .y = {1}}}}), InputError);
}

}  // namespace svg_test_file
}  // namespace rattan
