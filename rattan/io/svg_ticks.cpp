#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "rattan/base/error.h"
#include "rattan/io/svg.h"

namespace rattan {
namespace svg_ticks_file {

std::string with_commas(const std::string& digits) {
  std::size_t end = std::min(digits.find('.'), digits.size());
  std::size_t begin = digits.starts_with('-') ? 1 : 0;
  std::string out;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i > begin && i < end && (end - i) % 3 == 0) out += ',';
    out += digits[i];
  }
  return out;
}

// Decimals that show a step exactly: 2.5 needs one.
int decimals_of(double step) {
  int decimals = 0;
  while (decimals < 9 && std::abs(step - std::round(step)) > 1e-6 * std::abs(step)) step *= 10, ++decimals;
  return decimals;
}

// One form for all labels of an axis whose ticks are `step` apart and at most `largest` in magnitude.
std::string label(double value, double step, double largest) {
  if (std::abs(value) < step * 1e-9) return "0";
  if (largest < 1e-3 || largest >= 1e12) return fmt::format("{:.3g}", value);
  struct Unit {
    double size;
    const char* name;
  };
  for (Unit unit : {Unit{1e9, "B"}, Unit{1e6, "M"}, Unit{1e3, "k"}, Unit{1, ""}}) {
    // Thousands stay in digits up to 9,999; beyond, a unit saves width.
    if (unit.size > 1 && largest < 10 * unit.size) continue;
    int decimals = decimals_of(step / unit.size);
    return with_commas(fmt::format("{:.{}f}", value / unit.size, decimals)) + unit.name;
  }
  return {};
}

Ticks linear(double low, double high, int at_most) {
  double raw = (high - low) / std::max(1, at_most);
  double power = std::pow(10.0, std::floor(std::log10(raw)));
  double step = 10 * power;
  for (double factor : {1.0, 2.0, 2.5, 5.0}) {
    if (factor * power >= raw * (1 - 1e-9)) {
      step = factor * power;
      break;
    }
  }
  Ticks ticks;
  double largest = std::max(std::abs(low), std::abs(high));
  for (double k = std::ceil(low / step - 1e-9); k * step <= high + step * 1e-9; ++k) {
    ticks.at.push_back(k * step);
    ticks.label.push_back(label(k * step, step, largest));
  }
  return ticks;
}

std::string power_label(double value) {
  if (value >= 1e7 || value < 1e-3) return fmt::format("{:.3g}", value);
  std::string digits = value >= 1 ? fmt::format("{:.7g}", value) : fmt::format("{:.3g}", value);
  return with_commas(digits);
}

Ticks logarithmic(double low, double high, double base, int at_most) {
  double unit = std::log(base);
  auto first = static_cast<int>(std::ceil(std::log(low) / unit - 1e-9));
  auto last = static_cast<int>(std::floor(std::log(high) / unit + 1e-9));
  int count = last - first + 1;
  // Under two whole powers of the base inside: equal steps say more.
  if (count < 2) return linear(low, high, at_most);
  int stride = (count + at_most - 1) / std::max(1, at_most);
  Ticks ticks;
  for (int k = first; k <= last; ++k) {
    double value = std::pow(base, k);
    ticks.at.push_back(value);
    ticks.label.push_back((k - first) % stride == 0 ? power_label(value) : "");
  }
  if (base == 10 && count <= 4) {
    bool labeled = count * 3 <= at_most;
    for (int k = first - 1; k <= last; ++k) {
      for (int digit : {2, 5}) {
        double value = digit * std::pow(base, k);
        if (value < low * (1 - 1e-9) || value > high * (1 + 1e-9)) continue;
        ticks.at.push_back(value);
        ticks.label.push_back(labeled ? power_label(value) : "");
      }
    }
  }
  return ticks;
}

}  // namespace svg_ticks_file

Ticks choose_ticks(double low, double high, Scale scale, int at_most) {
  require(low < high && std::isfinite(low) && std::isfinite(high) && (scale == Scale::linear || low > 0),
          "an axis from {} to {} cannot be drawn: it needs finite ends in rising order, above 0 on a log scale", low,
          high);
  if (scale == Scale::linear) return svg_ticks_file::linear(low, high, at_most);
  return svg_ticks_file::logarithmic(low, high, scale == Scale::log2 ? 2 : 10, at_most);
}

}  // namespace rattan
