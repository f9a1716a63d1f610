#include "rattan/infer/engine/memory.h"

#include <algorithm>

#include "rattan/base/parallel.h"

namespace rattan::infer {

Memory::Memory(StateStore& store, int64_t rows, int64_t budget, std::function<bool()> evict)
    : store_(store), budget_(budget), evict_(std::move(evict)) {
  for (int64_t row = rows; row-- > 0;) free_.push_back(row);
  const int64_t held = store.grows_on_touch() ? 0 : store.capacity();
  tokens_.assign(static_cast<std::size_t>(rows), held);
  rows_bytes_ = held > 0 ? store.rows() * store.bytes(held) : 0;
}

int64_t Memory::take_row() {
  if (free_.empty()) return -1;
  const int64_t row = free_.back();
  free_.pop_back();
  return row;
}

void Memory::free_row(int64_t row) { free_.push_back(row); }

bool Memory::trim_for(int64_t bytes) {
  if (!store_.grows_on_touch()) return left() >= bytes;
  for (std::size_t i = 0; i < free_.size() && left() < bytes; ++i) {
    int64_t& held = tokens_[static_cast<std::size_t>(free_[i])];
    if (held == 0) continue;
    store_.trim(free_[i]);
    rows_bytes_ -= store_.bytes(held);
    held = 0;
  }
  return left() >= bytes;
}

bool Memory::grow(int64_t row, int64_t tokens) {
  int64_t& held = tokens_[static_cast<std::size_t>(row)];
  if (tokens <= held) return true;
  const int64_t before = held > 0 ? store_.bytes(held) : 0;
  // In steps, so that decoding seldom asks.
  constexpr int64_t grain = 64;
  for (const int64_t wanted : {std::min(store_.capacity(), ceil_div(tokens, grain) * grain), tokens}) {
    const int64_t more = store_.bytes(wanted) - before;
    bool there = trim_for(more);
    if (wanted == tokens)
      while (!there && evict_()) there = left() >= more;
    if (!there) continue;
    rows_bytes_ += more;
    held = wanted;
    return true;
  }
  return false;
}

bool Memory::fits(int64_t tokens) const {
  if (!store_.grows_on_touch()) return tokens <= store_.capacity();
  int64_t running = rows_bytes_;
  for (int64_t row : free_)
    if (const int64_t held = tokens_[static_cast<std::size_t>(row)]; held > 0) running -= store_.bytes(held);
  return running + store_.bytes(tokens) <= budget_;
}

bool Memory::keep(int64_t bytes) {
  if (!trim_for(bytes)) return false;
  kept_ += bytes;
  return true;
}

void Memory::give(int64_t bytes) { kept_ -= bytes; }

}  // namespace rattan::infer
