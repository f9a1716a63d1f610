#include "rattan/io/svg.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "rattan/base/error.h"
#include "rattan/io/markup.h"

namespace rattan {
namespace svg_file {

constexpr double kText = 13, kLine = 18, kCharacter = 0.56 * kText;
constexpr const char* kColors[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"};
constexpr const char* kDashes[] = {"", "7 3", "2 3", "9 3 2 3"};

double text_width(const std::string& text) {
  auto starts = [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; };
  return kCharacter * static_cast<double>(std::count_if(text.begin(), text.end(), starts));
}

// One axis: data range, scale, and the pixels it is drawn on.
struct Axis {
  Scale scale;
  double low = std::numeric_limits<double>::infinity(), high = -low;
  double from = 0, to = 1;
  Ticks ticks = {};

  bool shows(double v) const { return std::isfinite(v) && (scale == Scale::linear || v > 0); }
  void include(double v) {
    if (!shows(v)) return;
    low = std::min(low, v);
    high = std::max(high, v);
  }
  double place(double v) const { return scale == Scale::linear ? v : std::log(v); }
  double operator()(double v) const {
    return from + (to - from) * (place(v) - place(low)) / (place(high) - place(low));
  }
  // Gives an empty or single-valued range some width, and `margin` (a share of the range) at both ends.
  void settle(double margin) {
    if (low > high) low = scale == Scale::linear ? 0 : 1, high = low + 1;
    if (scale == Scale::linear) {
      double pad = high > low ? margin * (high - low) : std::max(1e-3, 0.5 * std::abs(low));
      low -= pad, high += pad;
    } else {
      double factor = high > low ? std::pow(high / low, margin) : 2;
      low /= factor, high *= factor;
    }
  }
};

struct Style {
  std::string color;
  std::string dash;
  std::size_t shape;
  bool faint;
};

std::string marker(double x, double y, const Style& style) {
  switch (style.shape % 4) {
    case 0:
      return fmt::format("<circle cx='{:.1f}' cy='{:.1f}' r='3.5' fill='{}'/>", x, y, style.color);
    case 1:
      return fmt::format("<rect x='{:.1f}' y='{:.1f}' width='6.6' height='6.6' fill='{}'/>", x - 3.3, y - 3.3,
                         style.color);
    case 2:
      return fmt::format("<path d='M{:.1f} {:.1f}l4.2 7.4h-8.4z' fill='{}'/>", x, y - 4.6, style.color);
    default:
      return fmt::format("<path d='M{:.1f} {:.1f}l4.4 4.4l-4.4 4.4l-4.4 -4.4z' fill='{}'/>", x, y - 4.4, style.color);
  }
}

std::string stroke(const Style& style) {
  std::string dash = style.dash.empty() ? "" : fmt::format(" stroke-dasharray='{}'", style.dash);
  return fmt::format("stroke='{}' stroke-width='{}'{}{}", style.color, style.faint ? "1" : "2", dash,
                     style.faint ? " stroke-opacity='0.4'" : "");
}

// The line as drawn: runs of points, broken where a value cannot be shown, thinned per pixel column.
class Path {
 public:
  void add(double x, double y) {
    double column = std::floor(x);
    if (!open_ || column != column_) {
      flush();
      column_ = column;
      first_ = lowest_ = highest_ = {x, y};
      count_ = 0;
    }
    last_ = {x, y};
    if (y < lowest_.y) lowest_ = last_;
    if (y > highest_.y) highest_ = last_;
    ++count_;
    open_ = true;
  }
  void lift() {
    flush();
    pen_down_ = open_ = false;
  }
  std::string take() {
    lift();
    return std::move(out_);
  }

 private:
  struct Point {
    double x, y;
  };
  void flush() {
    if (!open_) return;
    put(first_);
    if (count_ > 3) {
      bool low_first = lowest_.x <= highest_.x;
      put(low_first ? lowest_ : highest_);
      put(low_first ? highest_ : lowest_);
    } else if (count_ == 3) {
      put(lowest_.y < std::min(first_.y, last_.y) ? lowest_ : highest_);
    }
    if (count_ > 1) put(last_);
  }
  void put(Point p) {
    out_ += fmt::format("{}{:.1f} {:.1f}", pen_down_ ? "L" : "M", p.x, p.y);
    pen_down_ = true;
  }
  std::string out_;
  Point first_{}, lowest_{}, highest_{}, last_{};
  double column_ = 0;
  int64_t count_ = 0;
  bool open_ = false, pen_down_ = false;
};

std::string draw(const Series& series, const Style& style, const Axis& x, const Axis& y) {
  std::string out;
  Path path;
  for (std::size_t i = 0; i < series.x.size(); ++i) {
    if (x.shows(series.x[i]) && y.shows(series.y[i])) {
      path.add(x(series.x[i]), y(series.y[i]));
    } else {
      path.lift();
    }
  }
  if (series.line) {
    out += fmt::format("<path fill='none' stroke-linejoin='round' {} d='{}'/>\n", stroke(style), path.take());
  }
  for (std::size_t i = 0; i < series.x.size(); ++i) {
    if (!x.shows(series.x[i]) || !y.shows(series.y[i])) continue;
    double px = x(series.x[i]);
    if (!series.low.empty() && y.shows(series.low[i]) && y.shows(series.high[i])) {
      out += fmt::format("<path fill='none' stroke='{}' d='M{:.1f} {:.1f}V{:.1f}'/>\n", style.color, px,
                         y(series.low[i]), y(series.high[i]));
    }
    if (series.markers || !series.line) out += marker(px, y(series.y[i]), style) + "\n";
  }
  return out;
}

std::string text(double x, double y, const char* anchor, const std::string& content, const char* extra = "") {
  return fmt::format("<text x='{:.1f}' y='{:.1f}' text-anchor='{}'{}>{}</text>\n", x, y, anchor, extra,
                     escape_markup(content));
}

std::string draw_axes(const Plot& plot, const Axis& x, const Axis& y) {
  std::string grid, out;
  for (std::size_t i = 0; i < y.ticks.at.size(); ++i) {
    double v = y(y.ticks.at[i]);
    grid += fmt::format("M{:.1f} {:.1f}H{:.1f}", x.from, v, x.to);
    if (!y.ticks.label[i].empty()) out += text(x.from - 6, v + 4.5, "end", y.ticks.label[i]);
  }
  std::string notches;
  double free_from = -1e9;
  for (std::size_t i = 0; i < x.ticks.at.size(); ++i) {
    double v = x(x.ticks.at[i]);
    notches += fmt::format("M{:.1f} {:.1f}v4", v, y.from);
    double half = text_width(x.ticks.label[i]) / 2;
    if (x.ticks.label[i].empty() || v - half < free_from) continue;
    out += text(v, y.from + 18, "middle", x.ticks.label[i]);
    free_from = v + half + 4;
  }
  out += text((x.from + x.to) / 2, y.from + 37, "middle", plot.x_label);
  return fmt::format(
      "<path d='{}' stroke='currentColor' stroke-opacity='0.15' fill='none'/>\n"
      "<path d='{}M{:.1f} {:.1f}H{:.1f}' stroke='currentColor' fill='none'/>\n{}",
      grid, notches, x.from, y.from, x.to, out);
}

struct Legend {
  std::string drawing;
  double height = 0;
};

Legend draw_legend(const Plot& plot, const std::vector<Style>& styles, double left, double top) {
  Legend legend;
  double x = left, y = top;
  for (std::size_t i = 0; i < plot.series.size(); ++i) {
    const Series& series = plot.series[i];
    if (series.name.empty()) continue;
    double width = 28 + text_width(series.name) + 14;
    if (x > left && x + width > plot.width) x = left, y += kLine;
    if (series.line) legend.drawing += fmt::format("<path {} d='M{:.1f} {:.1f}h22'/>", stroke(styles[i]), x, y - 4.5);
    if (series.markers || !series.line) legend.drawing += marker(x + 11, y - 4.5, styles[i]);
    legend.drawing += text(x + 28, y, "start", series.name);
    legend.height = y - top + kLine;
    x += width;
  }
  return legend;
}

void check(const Series& s) {
  bool bars = s.low.size() == s.high.size() && (s.low.empty() || s.low.size() == s.y.size());
  require(s.x.size() == s.y.size() && bars,
          "series '{}' has {} x values, {} y values, {} low and {} high ends of error bars: the first two must be "
          "equally many, the others as many or none",
          s.name, s.x.size(), s.y.size(), s.low.size(), s.high.size());
}

}  // namespace svg_file

std::string to_svg(const Plot& plot, bool standalone) {
  using namespace svg_file;
  Axis x{plot.x_scale}, y{plot.y_scale};
  std::vector<Style> styles;
  for (const Series& s : plot.series) {
    check(s);
    for (std::size_t i = 0; i < s.x.size(); ++i) {
      if (!x.shows(s.x[i]) || !y.shows(s.y[i])) continue;
      x.include(s.x[i]);
      y.include(s.y[i]);
      if (!s.low.empty()) y.include(s.low[i]), y.include(s.high[i]);
    }
    std::size_t i = styles.size();
    styles.push_back({kColors[i % std::size(kColors)], s.faint ? "" : kDashes[i % std::size(kDashes)], i, s.faint});
  }
  bool empty = x.low > x.high;
  if (plot.y_from_zero) y.include(0);
  x.settle(0.02);
  y.settle(0.05);
  if (plot.y_from_zero && plot.y_scale == Scale::linear) y.low = std::max(y.low, 0.0);

  double top = plot.title.empty() ? 16 : 34;
  Legend legend = draw_legend(plot, styles, 8, top + 2);
  top += legend.height;
  if (!plot.y_label.empty()) top += kLine;
  y.from = plot.height - (plot.x_label.empty() ? 26 : 46);
  y.to = top;
  y.ticks = choose_ticks(y.low, y.high, y.scale, std::max(2, static_cast<int>((y.from - y.to) / 38)));
  double widest = 0;
  for (const std::string& label : y.ticks.label) widest = std::max(widest, text_width(label));
  x.from = widest + 14;
  x.to = plot.width - 14;
  x.ticks = choose_ticks(x.low, x.high, x.scale, std::max(2, static_cast<int>((x.to - x.from) / 72)));
  // Room for the half of the last label that stands out to the right.
  if (!x.ticks.at.empty()) {
    double overhang = x(x.ticks.at.back()) + text_width(x.ticks.label.back()) / 2 - (plot.width - 2);
    x.to -= std::max(0.0, overhang);
  }

  std::string out = fmt::format(
      "<svg{} viewBox='0 0 {} {}' role='img' aria-label='{}' font-family='system-ui,sans-serif' font-size='{}' "
      "fill='currentColor'>\n",
      standalone ? " xmlns='http://www.w3.org/2000/svg'" : "", plot.width, plot.height, escape_markup(plot.title),
      kText);
  if (standalone) {
    out +=
        "<style>svg{color:#222;background:#fff}@media(prefers-color-scheme:dark){svg{color:#ddd;background:#181a1b}}"
        "@media print{svg{color:#000;background:#fff}}</style>\n";
  }
  if (!plot.title.empty()) out += text(8, 18, "start", plot.title, " font-weight='600'");
  out += legend.drawing;
  if (!plot.y_label.empty()) out += text(8, top - 9, "start", plot.y_label, " fill-opacity='0.75'");
  out += draw_axes(plot, x, y);
  if (empty) out += text((x.from + x.to) / 2, (y.from + y.to) / 2, "middle", "no data");
  for (std::size_t i = 0; i < plot.series.size(); ++i) out += draw(plot.series[i], styles[i], x, y);
  return out + "</svg>\n";
}

}  // namespace rattan
