// Figures for people, in the tables of benchmarks.
#pragma once
#include <fmt/core.h>

#include <cstdint>
#include <optional>
#include <string>

namespace rattan::bench {

inline std::string human_time(double seconds) {
  if (seconds < 1e-3) return fmt::format("{:.1f} us", seconds * 1e6);
  if (seconds < 1) return fmt::format("{:.2f} ms", seconds * 1e3);
  return fmt::format("{:.3f} s", seconds);
}

inline std::string or_dash(const std::optional<double>& value, int decimals, const char* unit = "") {
  return value ? fmt::format("{:.{}f}{}", *value, decimals, unit) : "-";
}

inline std::optional<double> gigabytes(const std::optional<int64_t>& bytes) {
  if (!bytes) return std::nullopt;
  return static_cast<double>(*bytes) / 1e9;
}

}  // namespace rattan::bench
