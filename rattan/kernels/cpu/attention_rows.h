// What forward and backward of interval attention share.
#pragma once
#include "rattan/kernels/cpu/attention_plan.h"
#include "rattan/kernels/cpu/softmax_tile.h"
#include "rattan/kernels/tensor_ref.h"

namespace rattan::kernels::RATTAN_ISA {

static_assert(attention_tile_rows == tile_rows);

// Rows of one head as fp32 [n][padded]; rows beyond the tile's are zero.
template <class T>
void load_tile(const HeadsRef<const T>& x, const AttentionTile& tile, int64_t h, int64_t n, int64_t dim, float* out) {
  int64_t padded = round_up(dim, W);
  for (int64_t i = 0; i < tile.rows; ++i) load_row(x.at(tile.row + i, h), dim, padded, out + i * padded);
  std::memset(out + tile.rows * padded, 0, static_cast<size_t>((n - tile.rows) * padded) * sizeof(float));
}

// Which keys of the block at `block` the tile's rows see; null where all see all of its `count` keys.
inline Visible visible_keys(const AttentionTile& tile, const int32_t* begin, const int32_t* end, int64_t n,
                            int64_t block, int64_t count, float* lo, float* hi) {
  if (tile.full_begin <= block && block + count <= tile.full_end) return {};
  for (int64_t i = 0; i < tile.rows; ++i) {
    lo[i] = static_cast<float>(begin[tile.row + i] - block);
    hi[i] = static_cast<float>(end[tile.row + i] - block);
  }
  for (int64_t i = tile.rows; i < n; ++i) lo[i] = hi[i] = 0;
  return {lo, hi};
}

// Keys of the block that starts at `block`.
inline int64_t block_count(const AttentionTile& tile, int64_t block) {
  return tile.end - block < tile_rows ? tile.end - block : tile_rows;
}

}  // namespace rattan::kernels::RATTAN_ISA
