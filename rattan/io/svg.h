// Line plots as SVG: no library, no script, no font file. Axes and text take the color of the page
// (`currentColor`), so one plot suits light and dark pages; series differ in color, dash and marker shape, so
// they also differ on grey paper and for color-blind readers (palette: Okabe & Ito, 2008).
#pragma once
#include <string>
#include <vector>

namespace rattan {

enum class Scale { linear, log2, log10 };

struct Series {
  std::string name = {};  // shown in the legend; empty: not listed there
  std::vector<double> x = {},
                      y = {};  // equal lengths; a point that is not finite (or <= 0 on a log axis) breaks the line
  bool line = true;
  bool markers = false;
  bool faint = false;                       // thin and pale: raw values behind a smoothed curve
  std::vector<double> low = {}, high = {};  // optional error bars, as long as y
};

struct Plot {
  std::string title = {}, x_label = {}, y_label = {};
  Scale x_scale = Scale::linear, y_scale = Scale::linear;
  std::vector<Series> series = {};
  bool y_from_zero = false;       // linear y axis only
  int width = 480, height = 320;  // user units; text is 13 of them tall, readable when a phone shrinks the plot
};

// Where ticks go and what they say, for the range [low, high] (low < high; both > 0 on a log scale).
struct Ticks {
  std::vector<double> at;
  std::vector<std::string> label;  // "" for a minor tick of a log axis
};
Ticks choose_ticks(double low, double high, Scale scale, int at_most);

// An <svg> element; `standalone` adds the namespace and colors that a file of its own needs.
// Lines of more points than the plot can show are thinned to each column's first, lowest, highest and last
// point. InputError if the lengths of a series disagree.
std::string to_svg(const Plot& plot, bool standalone = true);

}  // namespace rattan
