// The stages of the CUDA RAT kernels. Between them stands the attention over the chunk ends, which is none of theirs:
// what goes to it and comes from it is described by ChunkRows, so that it may lie token by token or chunk by chunk.
//
//   forward:  rotate (queries) and scan (chunk ends, local entries) | attention (with the output gate) | final
//   backward: rotate and gate (dy, dz', delta)                     | attention | chunks (dv, dg', dk', dq)
//
// Where the attention makes dy, dz' and delta itself (interval_backward_gates()), there is no stage for the gate.
//
// A block of scan, gate and chunks works on a chunk and on several heads, one after the other. A thread holds
// four bytes of each stream of a head and takes the tokens in pieces of 16, whose loads are all in flight together.
#pragma once
#include <cuda_runtime.h>

#include <initializer_list>

#include "rattan/kernels/rat.h"

namespace rattan::kernels::cuda {

constexpr int kRatPiece = 16;  // tokens

// Rows of a head's channels, found by the chunk and the token's place l in it:
// data + begin * chunk.begin + chunk * (chunk's index) + head * h + token * l, the last dimension contiguous.
template <class T>
struct ChunkRows {
  T* data = nullptr;
  int64_t begin = 0, chunk = 0, head = 0, token = 0;
};

// [rows of tokens, heads, dim].
template <class T>
ChunkRows<T> by_token(T* data, int64_t row, int64_t head) {
  return {data, row, 0, head, row};
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

// Per token: the ends it sees; -1 for padding.
struct RatRows {
  int32_t *first, *slot;
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

// Throws rattan::Error if rows lie too far apart for 32-bit offsets within a piece.
void rat_check_rows(std::initializer_list<int64_t> strides);

// Fills rows (`first` and `slot` one after the other in memory) from the chunk table.
void rat_rows(const RatShape& shape, const RatChunk* table, const RatRows& rows, cudaStream_t stream);

// Padding: `count` elements of its rows become 0 in each of `rows` that has data, its `per_head` values `value`.
template <class T>
struct RatPadding {
  RowsRef<T> rows[3];
  int64_t count[3] = {0, 0, 0};
  float* per_head = nullptr;  // [N, H], optional
  float value = 0;
};
template <class T>
void rat_padding(const RatShape& shape, const RatRows& rows, const RatPadding<T>& padding, cudaStream_t stream);

// queries = R q, [chunk rows, G, p]; R is left out where cos is null.
template <class T>
void rat_rotate(const RatShape& shape, const RatChunk* table, const float* cos, const float* sin,
                const RowsRef<const T>& proj, const ChunkRows<T>& queries, cudaStream_t stream);

// Chunk ends; local[n, h] = s q.k~; values = v~; the last running states unless they are updated in place.
template <class T>
void rat_scan(const RatForward<T>& a, float* local, const ChunkRows<T>& values, cudaStream_t stream);

// The last running states where `final` is the memory of `running`; to run when all else has read it.
template <class T>
void rat_final(const RatForward<T>& a, cudaStream_t stream);

// The whole forward pass of a decoding step, with which none of the stages above is needed.
int64_t rat_step_scratch_bytes(const RatShape& shape);
template <class T>
void rat_step(const RatForward<T>& a, void* scratch, cudaStream_t stream);

// dy = z dout; dz', written to d_proj; delta[n, h] = dy.y of the rounded dy.
template <class T>
void rat_gate(const RatBackward<T>& a, const ChunkRows<T>& dy, float* delta, cudaStream_t stream);

// What rat_chunks needs of scratch memory.
struct RatChunksScratch {
  float* states;  // [N / 16 + 1, 2, H, p]: running states at the starts of pieces, if a chunk has more than one
  float* d_bias;  // [runs of chunks, D]
  float* sums;    // [slices, N, 2, G, p]: dk' and the local part of dq, if a group's heads are cut into slices
  RatChunksScratch(Scratch& scratch, const RatShape& shape);
};

// dv, dg', dk', dq, written to d_proj, d_gate_bias, d_running. dq: the part from the ends, rotated, [rows, G, p].
// dy may be the memory of dv.
template <class T>
void rat_chunks(const RatBackward<T>& a, const ChunkRows<const T>& dy, const ChunkRows<const float>& dq,
                const float* delta, const RatChunksScratch& scratch, cudaStream_t stream);

}  // namespace rattan::kernels::cuda
