#include "rattan/kernels/ref/token_draw_ref.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

namespace rattan::kernels::ref {
namespace token_draw_file {

struct Row {
  const float* z;
  int64_t n;
  float highest = -std::numeric_limits<float>::infinity();

  uint64_t weight(int64_t i, double temperature) const {
    const float scale = 1 / static_cast<float>(std::max(temperature, 1e-30));
    return static_cast<uint64_t>(std::rint(std::exp((z[i] - highest) * scale) * draw_unit));
  }
};

// The ids that the rule keeps, in ascending order.
std::vector<int64_t> kept(const Row& row, const DrawRule& rule) {
  if (!(rule.temperature > 0)) return {std::max_element(row.z, row.z + row.n) - row.z};
  std::vector<int64_t> order(static_cast<std::size_t>(row.n));
  std::iota(order.begin(), order.end(), 0);
  const auto k = static_cast<int64_t>(rule.top_k);
  if (k > 0 || rule.top_p < 1)
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return row.z[a] > row.z[b]; });
  if (k > 0) order.resize(static_cast<std::size_t>(std::min(k, row.n)));
  if (rule.top_p < 1) {
    uint64_t sum = 0, reached = 0;
    for (int64_t i : order) sum += row.weight(i, rule.temperature);
    const double needed = rule.top_p * static_cast<double>(sum);
    std::size_t n = 0;
    while (n < order.size() && (n == 0 || static_cast<double>(reached) < needed))
      reached += row.weight(order[n++], rule.temperature);
    order.resize(n);
  }
  const float least = static_cast<float>(rule.min_p) * draw_unit;
  std::erase_if(order, [&](int64_t i) { return static_cast<float>(row.weight(i, rule.temperature)) < least; });
  std::sort(order.begin(), order.end());
  return order;
}

int64_t drawn(const Row& row, const DrawRule& rule) {
  const std::vector<int64_t> ids = kept(row, rule);
  uint64_t sum = 0;
  for (int64_t i : ids) sum += row.weight(i, rule.temperature);
  uint64_t left = std::min(static_cast<uint64_t>(rule.uniform * static_cast<double>(sum)), sum - 1);
  for (int64_t i : ids) {
    const uint64_t weight = row.weight(i, rule.temperature);
    if (left < weight) return i;
    left -= weight;
  }
  return ids.back();
}

}  // namespace token_draw_file

void token_draw(const TokenDraw& a) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  for (int64_t r = 0; r < a.rows; ++r) {
    token_draw_file::Row row{a.logits.at(r), a.vocabulary};
    bool sound = true;
    for (int64_t i = 0; i < row.n; ++i) {
      sound = sound && row.z[i] < infinity;
      row.highest = std::max(row.highest, row.z[i]);
    }
    a.index[r] = 0, a.logprob[r] = std::numeric_limits<double>::quiet_NaN();
    if (!sound || row.highest == -infinity) continue;
    uint64_t sum = 0;
    for (int64_t i = 0; i < row.n; ++i) sum += row.weight(i, 1);
    a.index[r] = token_draw_file::drawn(row, a.rules[r]);
    a.logprob[r] = static_cast<double>(row.z[a.index[r]]) - static_cast<double>(row.highest) -
                   std::log(static_cast<double>(sum) / static_cast<double>(draw_unit));
  }
}

}  // namespace rattan::kernels::ref
