// One budget of bytes for the rows of running sequences and for what is kept besides (cached prefixes).
//
// A row's memory is counted by the longest sequence it has held since it was last given back. When a row or the cache
// needs more than is left: rows that nobody uses give theirs back first, then the cache gives up its oldest entries.
#pragma once
#include <functional>
#include <vector>

#include "rattan/infer/engine/state_store.h"

namespace rattan::infer {

class Memory {
 public:
  // `rows` of the store can be taken. `evict` frees one kept thing and calls give(), or says that there is none.
  Memory(StateStore& store, int64_t rows, int64_t budget, std::function<bool()> evict);

  int64_t take_row();  // -1: none is free
  void free_row(int64_t row);
  int64_t free_rows() const { return static_cast<int64_t>(free_.size()); }

  // Room for a sequence of `tokens` in a row; false if there is none even without the cache.
  bool grow(int64_t row, int64_t tokens);
  // Whether a sequence could have room for so many tokens if the cache were empty.
  bool fits(int64_t tokens) const;

  bool keep(int64_t bytes);  // for the cache; false if there is no room without evicting
  void give(int64_t bytes);
  // Frees memory of unused rows until so many bytes are left; false if there are not enough.
  bool trim_for(int64_t bytes);

  int64_t row_bytes() const { return rows_bytes_; }
  int64_t kept_bytes() const { return kept_; }
  int64_t budget() const { return budget_; }

 private:
  int64_t left() const { return budget_ - rows_bytes_ - kept_; }

  StateStore& store_;
  int64_t budget_, rows_bytes_ = 0, kept_ = 0;
  std::vector<int64_t> free_;    // the last one freed is taken first
  std::vector<int64_t> tokens_;  // that each row has memory for
  std::function<bool()> evict_;
};

}  // namespace rattan::infer
