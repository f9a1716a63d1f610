// How a gated scan is cut into tasks, and what its segments share. Compiled once, for any processor.
#pragma once
#include "rattan/kernels/gated_scan.h"

namespace rattan::kernels {

// Groups of neighboring segments with at least `tokens_per_group` tokens each (but the last), so that many short
// segments do not become many short tasks. Writes the first segment of each group to first[0, groups) and
// `segments` to first[groups]; `first` has room for segments + 2. At least one group, which may be empty.
int64_t group_segments(const ScanSegment* table, int64_t segments, int64_t tokens_per_group, int64_t* first);

// Whether two segments start from the same row, whose gradient then is a sum.
bool share_initial_rows(const ScanSegment* table, int64_t segments);

}  // namespace rattan::kernels
