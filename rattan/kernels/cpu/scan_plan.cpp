#include "rattan/kernels/cpu/scan_plan.h"

#include <algorithm>
#include <vector>

namespace rattan::kernels {

int64_t group_segments(const ScanSegment* table, int64_t segments, int64_t tokens_per_group, int64_t* first) {
  int64_t groups = 0, tokens = 0;
  first[groups++] = 0;
  for (int64_t i = 0; i < segments; ++i) {
    if (tokens >= tokens_per_group) {
      first[groups++] = i;
      tokens = 0;
    }
    tokens += table[i].end - table[i].begin;
  }
  first[groups] = segments;
  return groups;
}

bool share_initial_rows(const ScanSegment* table, int64_t segments) {
  std::vector<int32_t> rows;
  for (int64_t i = 0; i < segments; ++i) {
    if (table[i].from >= 0) rows.push_back(table[i].from);
  }
  std::sort(rows.begin(), rows.end());
  return std::adjacent_find(rows.begin(), rows.end()) != rows.end();
}

}  // namespace rattan::kernels
