#include "rattan/infer/stop.h"

#include <algorithm>

#include "rattan/base/error.h"

namespace rattan::infer {
namespace stop_file {

// The length of the longest end of `text` that is a proper start of `stop`.
std::size_t overlap(std::string_view text, std::string_view stop) {
  for (std::size_t n = std::min(text.size(), stop.size() - 1); n > 0; --n)
    if (text.ends_with(stop.substr(0, n))) return n;
  return 0;
}

}  // namespace stop_file

StopMatcher::StopMatcher(std::vector<std::string> stops) : stops_(std::move(stops)) {
  for (const std::string& stop : stops_) require(!stop.empty(), "a stop string must not be empty");
}

std::string StopMatcher::push(std::string_view bytes) {
  if (stopped()) return "";
  held_ += bytes;
  std::size_t first_end = std::string::npos, begin = 0;
  for (const std::string& stop : stops_) {
    const std::size_t at = held_.find(stop);
    if (at == std::string::npos) continue;
    const std::size_t end = at + stop.size();
    if (end < first_end || (end == first_end && at < begin)) first_end = end, begin = at, matched_ = stop;
  }
  if (stopped()) {
    std::string out = held_.substr(0, begin);
    held_.clear();
    return out;
  }
  std::size_t keep = 0;
  for (const std::string& stop : stops_) keep = std::max(keep, stop_file::overlap(held_, stop));
  std::string out = held_.substr(0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return out;
}

std::string StopMatcher::finish() { return std::exchange(held_, ""); }

}  // namespace rattan::infer
