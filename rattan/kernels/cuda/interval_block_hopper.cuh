// What the kernels that keep a block of keys and go through tiles of queries share: interval attention backward for
// Hopper, two warpgroups of 64 keys each. The products are made with the keys as rows, so that probabilities and score
// gradients are left operands from registers.
#pragma once
#include "rattan/kernels/cuda/hopper.cuh"
#include "rattan/kernels/cuda/interval_backward_hopper.cuh"

namespace rattan::kernels::cuda {

constexpr int kBlockKeys = 128, kTileRows = 64;

// What the rows of a tile see: [low, high) holds all intervals; each row sees [most_begin, least_end). least_end is 0
// where a row sees nothing.
struct alignas(16) QueryTile {
  int low, high, most_begin, least_end;
};

// What is known of the tiles of queries and the blocks of keys, in scratch memory.
struct BlockPlan {
  const QueryTile* tiles;
  const int2* range;    // of tiles that may see a block of keys
  const uint4* unseen;  // keys of a block that no query sees; for the joint pass, as are:
  int* turns;           // [tiles, q_heads], zeros: contributions to a tile of dq so far
  int* ticket;          // zero: the next block to work on
  const int* joint;     // whether the joint pass runs, and not the others; null: what is launched runs
};

struct RowStatistics {
  float lse[kTileRows], delta[kTileRows];
  int begin[kTileRows], end[kTileRows];
};

// Asks for the statistics of a tile's rows and one head, by a warp; they come in the background. Rows there are none of
// see nothing.
template <class U>
__device__ void copy_statistics(RowStatistics& to, const IntervalBackward<bf16, U>& a, int64_t row0, int head) {
#pragma unroll
  for (int r = threadIdx.x % 32; r < kTileRows; r += 32) {
    const bool in = row0 + r < a.queries;
    const int64_t row = in ? row0 + r : 0, pair = row * a.heads + head;
    copy4_async(&to.lse[r], a.lse + pair, in);
    copy4_async(&to.delta[r], a.delta + pair, in);
    copy4_async(&to.begin[r], a.begin + row, in);
    copy4_async(&to.end[r], a.end + row, in);
  }
}

__device__ inline bool sees(const QueryTile& t, int64_t key0) { return t.low < key0 + kBlockKeys && t.high > key0; }

// The next tile in sight from `tile` on, and the last one from there back; `last` and `first` - 1 if there is none.
__device__ inline int next_tile(const QueryTile* tiles, int tile, int last, int64_t key0) {
  while (tile < last && !sees(tiles[tile], key0)) ++tile;
  return tile;
}

__device__ inline int previous_tile(const QueryTile* tiles, int tile, int first, int64_t key0) {
  while (tile >= first && !sees(tiles[tile], key0)) --tile;
  return tile;
}

// s[64 keys, 64 rows] = keys rows^T
template <int D>
__device__ void multiply_scores(float (&s)[kTileRows / 8][4], const bf16* keys, const bf16* rows) {
  const unsigned a = by_channels(keys), b = by_channels(rows);
#pragma unroll
  for (int c = 0; c < D; c += 16)
    wgmma<false>(s, a + channel_step<kBlockKeys>(c), b + channel_step<kTileRows>(c), c > 0);
}

template <int D>
__device__ void multiply_rows(float (&acc)[D / 8][4], const unsigned (&p)[kTileRows / 16][4], const bf16* rows) {
  const unsigned b = by_rows<kTileRows>(rows);
#pragma unroll
  for (int j = 0; j < kTileRows / 16; ++j) wgmma<true>(acc, p[j], b + row_step(j * 16), true);
}

// Rows that see nothing become zeros: whatever they contain (NaN too) stays out of the products. Called by both
// warpgroups, which share the work.
template <int D>
__device__ void zero_blind(const RowStatistics& rows, bf16* q, bf16* d_o) {
  const int part = threadIdx.x / 32 % 8;
  if (part < 4) {
    const int first = part % 2 * 32, r = first + threadIdx.x % 32;
    zero_rows<kTileRows, D>(part / 2 ? q : d_o, first, __ballot_sync(kAllLanes, rows.begin[r] >= rows.end[r]));
    fence_async();
  }
  sync_threads(3, 256);
}

// Zeroes what the keys of this thread (rows `key`, `key` + 8) do not pass on.
__device__ inline void hide(float (&s)[kTileRows / 8][4], const RowStatistics& rows, int64_t key) {
#pragma unroll
  for (int n = 0; n < kTileRows / 8; ++n) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const int column = n * 8 + threadIdx.x % 4 * 2 + c, begin = rows.begin[column], end = rows.end[column];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if (key + i * 8 < begin || key + i * 8 >= end) s[n][i * 2 + c] = 0;
      }
    }
  }
}

// Score gradients of hidden keys, which may hold anything, become 0 as their probabilities `s` are.
__device__ inline void hide_where_zero(float (&dp)[kTileRows / 8][4], const float (&s)[kTileRows / 8][4]) {
#pragma unroll
  for (int n = 0; n < kTileRows / 8; ++n) {
#pragma unroll
    for (int j = 0; j < 4; ++j) dp[n][j] = s[n][j] == 0 ? 0.0f : dp[n][j];
  }
}

// The two passes over key blocks. In the joint one `dq` is where the gradient of the queries is summed up.
template <class U>
void interval_key_hopper(const IntervalBackward<bf16, U>& a, const BlockPlan& plan, void* stream);
template <class U>
void interval_joint_hopper(const IntervalBackward<bf16, U>& a, const HeadsRef<float>& dq, const BlockPlan& plan,
                           void* stream);

}  // namespace rattan::kernels::cuda
