// Which keys the query rows of a block see, for the Hopper attention kernels.
#pragma once
#include "rattan/kernels/cuda/device.cuh"
#include "rattan/kernels/cuda/hopper.cuh"

namespace rattan::kernels::cuda {

// The intervals of R query rows in shared memory, and what follows from them for the whole tile. Empty intervals are
// stored as [0, 0).
template <int R>
struct TileSpan {
  int begin[R], end[R];
  int low, high;  // the smallest interval that holds all; empty (high = 0) if no row sees a key
  int cover;      // begin of a row whose end is `high`: [cover, high) has no gap

  // Called by a whole block of at least R threads; ends with a barrier.
  __device__ void load(const int32_t* from, const int32_t* to, int64_t row0, int64_t rows) {
    if (threadIdx.x < R) {
      const int r = threadIdx.x;
      const bool in = row0 + r < rows;
      int b = in ? from[row0 + r] : 0, e = in ? to[row0 + r] : 0;
      if (b >= e) b = e = 0;
      begin[r] = b;
      end[r] = e;
    }
    __syncthreads();
    if (threadIdx.x < 32) {
      int least = 0x7fffffff, most = 0;
      for (int r = threadIdx.x; r < R; r += 32) {
        if (begin[r] == end[r]) continue;
        least = min(least, begin[r]);
        most = max(most, end[r]);
      }
      least = __reduce_min_sync(kAllLanes, least);
      most = __reduce_max_sync(kAllLanes, most);
      int start = most;
      for (int r = threadIdx.x; r < R; r += 32) {
        if (begin[r] < end[r] && end[r] == most) start = min(start, begin[r]);
      }
      start = __reduce_min_sync(kAllLanes, start);
      if (threadIdx.x == 0) {
        low = least;
        high = most;
        cover = start;
      }
    }
    __syncthreads();
  }

  // The rest is called by whole warps, which all get the same answer.

  // True if some row sees a key of [key0, key0 + count).
  __device__ bool seen(int key0, int count) const {
    if (key0 >= high || key0 + count <= low) return false;
    if (key0 + count > cover) return true;
    bool any = false;
    for (int r = threadIdx.x % 32; r < R; r += 32) {
      any = any || (begin[r] < key0 + count && end[r] > key0 && begin[r] < end[r]);
    }
    return __any_sync(kAllLanes, any);
  }
  // The first of key0, key0 + count, ... whose `count` keys are seen by some row; at least `high` if there is none.
  __device__ int next_seen(int64_t key0, int count) const {
    while (key0 < high && !seen(static_cast<int>(key0), count)) key0 += count;
    return static_cast<int>(key0 < high ? key0 : high);
  }
  // True if each key of [key0, key0 + count) is known to be seen by some row.
  __device__ bool all_seen(int key0, int count) const { return key0 >= cover && key0 + count <= high; }
  // Whether some row sees the key; each thread asks for its own.
  __device__ bool key_seen(int key) const {
    if (key < low || key >= high) return false;
    if (key >= cover) return true;
    for (int r = 0; r < R; ++r) {
      if (begin[r] <= key && key < end[r]) return true;
    }
    return false;
  }
};

// Rows of a tile of keys or values that no query row sees become zeros, so that whatever lies there (NaN too) stays
// out of the products. Called by a warpgroup; each writes all of them: the same zeros.
template <int keys, int D, int R>
__device__ void zero_unseen(const TileSpan<R>& span, bf16* tile, int key0, int warpgroup) {
  if (span.all_seen(key0, keys)) return;
  const int key = threadIdx.x % keys;
  zero_rows<keys, D>(tile, key / 32 * 32, __ballot_sync(kAllLanes, !span.key_seen(key0 + key)));
  fence_async();
  sync_threads(1 + warpgroup, 128);
}

}  // namespace rattan::kernels::cuda
