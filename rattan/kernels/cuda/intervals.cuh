// Which keys a tile of query rows sees.
#pragma once
#include "rattan/kernels/cuda/device.cuh"

namespace rattan::kernels::cuda {

// The intervals of R query rows in shared memory; rows beyond the last query are empty.
template <int R>
struct Intervals {
  int begin[R], end[R];

  __device__ void load(const int32_t* from, const int32_t* to, int64_t row0, int64_t rows) {
    for (int r = threadIdx.x; r < R; r += blockDim.x) {
      const bool in = row0 + r < rows;
      int b = in ? from[row0 + r] : 0, e = in ? to[row0 + r] : 0;
      if (b >= e) b = e = 0;
      begin[r] = b;
      end[r] = e;
    }
  }

  // Bit r: row r sees any key at all. All of the functions below are called by whole warps and give every
  // warp the same answer.
  __device__ uint64_t seeing() const {
    return gather([&](int r) { return begin[r] < end[r]; });
  }
  // [low, high): the smallest interval that holds all; empty if no row sees a key.
  __device__ void span(int& low, int& high) const {
    low = 0x7fffffff;
    high = 0;
    const int lane = threadIdx.x % 32;
    for (int r = lane; r < R; r += 32) {
      if (begin[r] >= end[r]) continue;
      low = min(low, begin[r]);
      high = max(high, end[r]);
    }
    low = __reduce_min_sync(kAllLanes, low);
    high = __reduce_max_sync(kAllLanes, high);
  }
  // Bit j: key `key0 + j` is seen by some row. Keys that none sees are loaded as zeros, so that whatever
  // padding contains (NaN too) stays out of the products.
  __device__ uint64_t seen(int key0) const {
    if (!gather([&](int r) { return begin[r] < key0 + R && end[r] > key0; })) return 0;
    if (gather([&](int r) { return begin[r] <= key0 && end[r] >= key0 + R; })) return ~uint64_t{0};
    return gather([&](int j) {
      for (int r = 0; r < R; ++r) {
        if (begin[r] <= key0 + j && key0 + j < end[r]) return true;
      }
      return false;
    });
  }

 private:
  template <class Predicate>
  __device__ static uint64_t gather(Predicate&& holds) {
    const int lane = threadIdx.x % 32;
    uint64_t bits = __ballot_sync(kAllLanes, lane < R && holds(lane < R ? lane : 0));
    if constexpr (R > 32) bits |= uint64_t{__ballot_sync(kAllLanes, holds(lane + 32))} << 32;
    return bits;
  }
};

}  // namespace rattan::kernels::cuda
