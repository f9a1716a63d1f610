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
  int cover;      // [cover, high) has no gap: each key of it is seen by some row

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
    if (threadIdx.x < 32) summarize();
    __syncthreads();
  }

  // The rest is called by whole warps, which all get the same answer.

  // True if some row sees a key of [key0, key0 + count).
  __device__ bool seen(int key0, int count) const {
    bool any = false;
#pragma unroll 1
    for (int r = threadIdx.x % 32; r < R; r += 32) {
      any = any || (begin[r] < key0 + count && end[r] > key0 && begin[r] < end[r]);
    }
    return __any_sync(kAllLanes, any);
  }
  // Whether some row sees the key; each thread asks for its own.
  __device__ bool key_seen(int key) const {
    if (key < low || key >= high) return false;
    if (key >= cover) return true;
#pragma unroll 1
    for (int r = 0; r < R; ++r) {
      if (begin[r] <= key && key < end[r]) return true;
    }
    return false;
  }

 private:
  // The least begin of the rows that see a key and whose intervals end at `key` or after it.
  __device__ int least_begin(int key) const {
    int least = 0x7fffffff;
    for (int r = threadIdx.x % 32; r < R; r += 32) {
      if (begin[r] < end[r] && end[r] >= key) least = min(least, begin[r]);
    }
    return __reduce_min_sync(kAllLanes, least);
  }
  __device__ void summarize() {
    int most = 0;
    for (int r = threadIdx.x; r < R; r += 32) most = max(most, end[r]);
    most = __reduce_max_sync(kAllLanes, most);
    const int least = least_begin(0);
    int reach = most;
    // Intervals that end where the next ones begin, or later, leave no gap.
    for (int next = least_begin(most); next < reach; next = least_begin(reach)) reach = next;
    if (threadIdx.x == 0) low = least, high = most, cover = reach;
  }
};

// The blocks of `keys` keys which some row of a tile sees. Used by whole warps, which all see the same ones.
template <int keys, int R>
class SeenBlocks {
 public:
  __device__ explicit SeenBlocks(const TileSpan<R>& span)
      : span_(span), low_(span.low), high_(span.high), cover_(span.cover) {}

  // The first key of the first block, and of the one after that of `key`; end() if there is none.
  __device__ int first() const { return high_ == 0 ? 0 : low_; }
  __device__ int after(int key) const { return key >= high_ - keys ? high_ : next(key + keys); }
  __device__ int end() const { return high_; }
  // True if each key of the block is known to be seen by some row.
  __device__ bool all_seen(int key) const { return key >= cover_ && key <= high_ - keys; }

 private:
  __device__ int next(int key) const {
#pragma unroll 1
    while (key <= cover_ - keys && !span_.seen(key, keys)) key += keys;
    return key;
  }
  const TileSpan<R>& span_;
  int low_, high_, cover_;
};

// Keys that no query row sees may hold anything, NaN too, and zero times that would not be zero. The copy of a block
// with such keys signals `raw`; a warp of its own turns their rows into zeros here and then lets the others have it.
template <int keys, int D, int R>
__device__ void clean_block(const TileSpan<R>& span, bf16* tile, int key0, Barrier& raw, unsigned parity,
                            Barrier& full) {
  const int lane = threadIdx.x % 32;
  wait(raw, parity);
#pragma unroll 1
  for (int first = 0; first < keys; first += 32) {
    zero_rows<keys, D>(tile, first, __ballot_sync(kAllLanes, !span.key_seen(key0 + first + lane)));
  }
  fence_async();
  __syncwarp();
  if (lane == 0) arrive(full);
}

}  // namespace rattan::kernels::cuda
