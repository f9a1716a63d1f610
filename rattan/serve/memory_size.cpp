#include "rattan/serve/memory_size.h"

#include <charconv>
#include <map>

#include "rattan/base/error.h"

namespace rattan::serve {

int64_t memory_size(const std::string& text, int64_t whole, const std::string& flag) {
  static const std::map<std::string, double> units = {
      {"", 1},      {"B", 1},        {"KB", 1e3},        {"MB", 1e6},           {"GB", 1e9},
      {"TB", 1e12}, {"KiB", 1024.0}, {"MiB", 1048576.0}, {"GiB", 1073741824.0}, {"TiB", 1099511627776.0}};
  double number = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  const std::string unit(rest, end);
  const bool share = unit == "%";
  require(error == std::errc() && number >= 0 && (share ? number <= 100 : units.contains(unit)),
          "{} takes an amount such as 8GiB or 500MB, or a share such as 60%, not '{}'", flag, text);
  require(!share || whole > 0, "{}: how much memory this machine has is not known; give an amount such as 8GiB", flag);
  const double bytes = share ? number / 100 * static_cast<double>(whole) : number * units.at(unit);
  require(bytes < 9e18, "{} is too large: '{}'", flag, text);
  return static_cast<int64_t>(bytes);
}

}  // namespace rattan::serve
