#include "rattan/infer/engine/undo.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/remainder.h>

#include <algorithm>

namespace rattan::infer {

// Entries that grow are left alone: those of tokens beyond the state's length mean nothing. The last one before it may
// be half made, but then the fixed fields of its spec say how it goes on.
Undo::Undo(const StateStore& store, int64_t row, int64_t held, int64_t more) : store_(store), row_(row), held_(held) {
  for (const StateStore::Group& group : store.groups()) {
    places_.emplace_back();
    saved_.emplace_back();
    if (group.grows()) continue;
    if (group.ring()) {
      const int64_t n = std::min(more, group.field.cap);
      places_.back() = at::remainder(at::arange(held, held + n, group.all.options().dtype(at::kLong)), group.field.cap);
      saved_.back() = group.row(row).index_select(1, places_.back());
    } else {
      saved_.back() = group.row(row).clone();
    }
  }
}

int64_t Undo::back_to(int64_t wanted) const {
  const auto& groups = store_.groups();
  if (std::all_of(groups.begin(), groups.end(),
                  [&](const StateStore::Group& group) { return group.resume > 0 && wanted % group.resume == 0; }))
    return wanted;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    if (!saved_[g].defined()) continue;
    at::Tensor row = groups[g].row(row_);
    if (places_[g].defined()) {
      row.index_copy_(1, places_[g], saved_[g]);
    } else {
      row.copy_(saved_[g]);
    }
  }
  return held_;
}

}  // namespace rattan::infer
