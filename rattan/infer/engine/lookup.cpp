#include "rattan/infer/engine/lookup.h"

#include <algorithm>

namespace rattan::infer {

std::vector<int32_t> lookup(std::span<const int32_t> ids, int64_t most) {
  constexpr std::size_t longest = 3, shortest = 2;
  if (most <= 0) return {};
  for (std::size_t n = longest; n >= shortest; --n) {
    if (ids.size() <= n) continue;
    const auto end = ids.last(n), before = ids.first(ids.size() - 1);
    const auto at = std::find_end(before.begin(), before.end(), end.begin(), end.end());
    if (at == before.end()) continue;
    const auto follows = ids.subspan(static_cast<std::size_t>(at - before.begin()) + n);
    const auto count = std::min(follows.size(), static_cast<std::size_t>(most));
    return {follows.begin(), follows.begin() + static_cast<std::ptrdiff_t>(count)};
  }
  return {};
}

}  // namespace rattan::infer
