#include "rattan/base/range.h"

#include <fmt/core.h>

#include <cmath>
#include <utility>

namespace rattan {

Range at_least(double low) {
  Range range;
  range.low = low;
  return range;
}

Range above(double low) {
  Range range = at_least(low);
  range.low_open = true;
  return range;
}

Range between(double low, double high) {
  Range range = at_least(low);
  range.high = high;
  return range;
}

Range one_of(std::vector<std::string> choices) {
  Range range;
  range.choices = std::move(choices);
  return range;
}

bool range_holds(const Range& range, double value) {
  if (std::isinf(range.low) && std::isinf(range.high)) return true;
  if (!std::isfinite(value)) return false;
  return (range.low_open ? value > range.low : value >= range.low) && value <= range.high;
}

std::string range_text(const Range& range) {
  if (!range.choices.empty()) {
    std::string out = range.choices.size() == 1 ? "" : "one of ";
    for (std::size_t i = 0; i < range.choices.size(); ++i) {
      out += fmt::format("{}\"{}\"", i == 0 ? "" : ", ", range.choices[i]);
    }
    return out;
  }
  bool low = std::isfinite(range.low), high = std::isfinite(range.high);
  if (low && high && !range.low_open) return fmt::format("between {} and {}", range.low, range.high);
  if (low && high) return fmt::format("above {} and at most {}", range.low, range.high);
  if (high) return fmt::format("at most {}", range.high);
  if (low) return fmt::format("{} {}", range.low_open ? "above" : "at least", range.low);
  return "";
}

}  // namespace rattan
