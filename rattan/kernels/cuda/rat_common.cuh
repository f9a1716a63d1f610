// What the RAT kernels share. They give one warp to a (chunk, head) pair; lane t holds the channels
// t E .. t E + E - 1 of the head, so the recurrences need no communication.
#pragma once
#include <type_traits>

#include "rattan/kernels/cuda/device.cuh"
#include "rattan/kernels/rat.h"

namespace rattan::kernels::cuda {

// Rotates a lane-distributed head by the chunk's angle (by minus it if `inverse`), through 32 E floats of shared
// memory that belong to the warp alone. A channel without a partner (odd dim) stays.
template <int E>
__device__ void rotate_lane(float (&x)[E], const float* cos, const float* sin, int64_t position, int dim, bool inverse,
                            float* shared) {
  const int first = threadIdx.x % 32 * E, half = dim / 2;
  __syncwarp();
#pragma unroll
  for (int e = 0; e < E; ++e) shared[first + e] = x[e];
  __syncwarp();
#pragma unroll
  for (int e = 0; e < E; ++e) {
    const int channel = first + e;
    if (channel >= 2 * half) continue;
    const bool low = channel < half;
    const int64_t angle = position * half + (low ? channel : channel - half);
    const float partner = shared[low ? channel + half : channel - half];
    x[e] = x[e] * cos[angle] + (low != inverse ? -partner : partner) * sin[angle];
  }
  __syncwarp();
}

// Where a token's streams start in a row of proj.
struct RatColumns {
  int64_t width, z, v, g, q, k;
  __host__ __device__ explicit RatColumns(const RatShape& s)
      : width(3 * s.heads * s.dim + 2 * s.groups * s.dim),
        z(0),
        v(s.heads * s.dim),
        g(2 * s.heads * s.dim),
        q(3 * s.heads * s.dim),
        k(3 * s.heads * s.dim + s.groups * s.dim) {}
};

// Per token: the ends it sees and the position of its chunk; -1 in all three for padding.
struct RatRows {
  int32_t *first, *slot, *position;
  static constexpr int64_t bytes_per_token = 12;
};

// Hands out pieces of scratch memory, each aligned to 256 bytes; without memory it only counts.
class Scratch {
 public:
  explicit Scratch(void* base = nullptr) : base_(static_cast<char*>(base)) {}
  template <class T>
  T* take(int64_t count) {
    char* p = base_ ? base_ + used_ : nullptr;
    used_ += (count * static_cast<int64_t>(sizeof(T)) + 255) / 256 * 256;
    return reinterpret_cast<T*>(p);
  }
  int64_t used() const { return used_; }

 private:
  char* base_;
  int64_t used_ = 0;
};

inline RatRows take_rows(Scratch& scratch, int64_t tokens) {
  RatRows rows;
  rows.first = scratch.take<int32_t>(tokens);
  rows.slot = scratch.take<int32_t>(tokens);
  rows.position = scratch.take<int32_t>(tokens);
  return rows;
}

// Fills `rows` from the chunk table.
void rat_rows(const RatShape& shape, const RatChunk* table, const RatRows& rows, void* stream);

// out[n, g] = R q[n, g] for tokens of chunks, zeros for padding; R is left out where cos is null.
void rat_rotate_queries(const RatShape& shape, const RatRows& rows, const float* cos, const float* sin,
                        RowsRef<const float> proj, float* out, void* stream);
void rat_rotate_queries(const RatShape& shape, const RatRows& rows, const float* cos, const float* sin,
                        RowsRef<const bf16> proj, bf16* out, void* stream);

// True if every stream of proj (and rows of D laid out alike) allows 16-byte accesses at the start of a head.
template <class T>
bool rat_vector(const RatShape& shape) {
  return shape.dim * sizeof(T) % 16 == 0;
}

// Calls f with the number of channels a lane as a constant: 32 E >= dim.
template <class F>
void with_lane_channels(int64_t dim, F&& f) {
  if (dim <= 32) return f(std::integral_constant<int, 1>());
  if (dim <= 64) return f(std::integral_constant<int, 2>());
  if (dim <= 128) return f(std::integral_constant<int, 4>());
  f(std::integral_constant<int, 8>());
}

}  // namespace rattan::kernels::cuda
