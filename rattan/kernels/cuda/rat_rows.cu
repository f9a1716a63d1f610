// What depends on tokens alone: what each sees, padding, rotated queries.
#include <type_traits>

#include "rattan/kernels/cuda/launch.h"
#include "rattan/kernels/cuda/rat_piece.cuh"

namespace rattan::kernels::cuda {

namespace rat_rows_file {

constexpr int kThreads = 256;

// 16 lanes a chunk.
__global__ void rows_kernel(const RatChunk* table, int64_t chunks, RatRows rows) {
  const int64_t chunk = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kRatPiece;
  if (chunk >= chunks) return;
  const RatChunk c = table[chunk];
  for (int64_t n = c.begin + static_cast<int64_t>(threadIdx.x % kRatPiece); n < c.end; n += kRatPiece) {
    rows.first[n] = c.first;
    rows.slot[n] = c.slot;
  }
}

// A warp looks at 32 tokens and clears the rows of those that are padding.
template <class T>
__global__ void padding_kernel(RatShape shape, RatRows rows, RatPadding<T> p) {
  const int lane = threadIdx.x % 32;
  const int64_t base = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / 32 * 32;
  if (base >= shape.tokens) return;
  unsigned found = __ballot_sync(kAllLanes, base + lane < shape.tokens && rows.slot[base + lane] < 0);
  for (; found != 0; found &= found - 1) {
    const int64_t n = base + __ffs(static_cast<int>(found)) - 1;
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      if (!p.rows[i].data) continue;
      for (int64_t c = lane; c < p.count[i]; c += 32) at(p.rows[i], n)[c] = from_float<T>(0);
    }
    if (!p.per_head) continue;
    for (int64_t h = lane; h < shape.heads; h += 32) p.per_head[n * shape.heads + h] = p.value;
  }
}

template <class T>
struct Rotate {
  RatShape shape;
  const RatChunk* table;
  const float *cos, *sin;
  RowsRef<const T> proj;
  ChunkRows<T> queries;
};

// A block takes a piece; a thread takes channels of one half and their partners for every second token of it.
// kPairs: two channels at a time.
constexpr int kTokenThreads = 2;

template <class T, bool kPairs>
__global__ void __launch_bounds__(kThreads) rotate_kernel(Rotate<T> p) {
  constexpr int E = kPairs ? 2 : 1;
  const RatColumns columns(p.shape);
  const int64_t chunk = blockIdx.x;
  const RatChunk c = p.table[chunk];
  const int dim = static_cast<int>(p.shape.dim), half = dim / 2, per_group = (half + E - 1) / E;
  const int length = c.end - c.begin, groups = static_cast<int>(p.shape.groups);
  for (int l0 = static_cast<int>(blockIdx.y) * kRatPiece; l0 < length; l0 += static_cast<int>(gridDim.y) * kRatPiece) {
    const int count = min(kRatPiece, length - l0);
    for (int x = static_cast<int>(threadIdx.x); x < per_group * groups; x += static_cast<int>(blockDim.x)) {
      const int group = x / per_group, channel = x % per_group * E;
      float cosine[E], sine[E];
#pragma unroll
      for (int e = 0; e < E; ++e) {
        const int64_t angle = int64_t{c.position} * half + channel + e;
        cosine[e] = p.cos ? p.cos[angle] : 1.0f;
        sine[e] = p.cos ? p.sin[angle] : 0.0f;
      }
      const T* from = at(p.proj, c.begin + l0) + columns.q + int64_t{group} * dim + channel;
      T* to = at(p.queries, c, chunk, group, l0) + channel;
#pragma unroll
      for (int i = 0; i < kRatPiece / kTokenThreads; ++i) {
        const int j = i * kTokenThreads + static_cast<int>(threadIdx.y);
        if (j >= count) break;
        Pack<T, E> low = load_constant<E>(from + j * p.proj.row), high = load_constant<E>(from + j * p.proj.row + half);
#pragma unroll
        for (int e = 0; e < E; ++e) {
          const float x0 = as_float(low.item[e]), x1 = as_float(high.item[e]);
          low.item[e] = from_float<T>(x0 * cosine[e] - x1 * sine[e]);
          high.item[e] = from_float<T>(x1 * cosine[e] + x0 * sine[e]);
        }
        store_pack(to + j * p.queries.token, low);
        store_pack(to + j * p.queries.token + half, high);
      }
    }
    if (dim % 2 == 0) continue;
    for (int x = static_cast<int>(threadIdx.x); x < groups; x += static_cast<int>(blockDim.x)) {
      for (int j = static_cast<int>(threadIdx.y); j < count; j += kTokenThreads) {
        at(p.queries, c, chunk, x, l0 + j)[dim - 1] = at(p.proj, c.begin + l0 + j)[columns.q + x * dim + dim - 1];
      }
    }
  }
}

}  // namespace rat_rows_file

void rat_rows(const RatShape& shape, const RatChunk* table, const RatRows& rows, cudaStream_t stream) {
  using namespace rat_rows_file;
  fill_async(rows.first, 0xff, (rows.slot - rows.first + shape.tokens) * 4, "rat (rows)", stream);
  if (shape.chunks == 0) return;
  const auto blocks = static_cast<unsigned>(blocks_for(shape.chunks, kThreads / kRatPiece));
  rows_kernel<<<blocks, kThreads, 0, stream>>>(table, shape.chunks, rows);
  check_launch("rat (rows)");
}

template <class T>
void rat_padding(const RatShape& shape, const RatRows& rows, const RatPadding<T>& padding, cudaStream_t stream) {
  using namespace rat_rows_file;
  padding_kernel<<<static_cast<unsigned>(blocks_for(shape.tokens, kThreads)), kThreads, 0, stream>>>(shape, rows,
                                                                                                     padding);
  check_launch("rat (padding)");
}

template <class T>
void rat_rotate(const RatShape& shape, const RatChunk* table, const float* cos, const float* sin,
                const RowsRef<const T>& proj, const ChunkRows<T>& queries, cudaStream_t stream) {
  using namespace rat_rows_file;
  const Rotate<T> p{shape, table, cos, sin, proj, queries};
  const bool pairs = shape.dim % 4 == 0 && paired(proj) && paired(queries);
  const int64_t items = shape.groups * blocks_for(shape.dim / 2, pairs ? 2 : 1);
  const int64_t across = items < kThreads / kTokenThreads ? blocks_for(items > 0 ? items : 1, 16) * 16 : 128;
  const dim3 grid(static_cast<unsigned>(shape.chunks), piece_blocks(shape));
  const dim3 threads(static_cast<unsigned>(across), kTokenThreads);
  if (pairs) {
    rotate_kernel<T, true><<<grid, threads, 0, stream>>>(p);
  } else {
    rotate_kernel<T, false><<<grid, threads, 0, stream>>>(p);
  }
  check_launch("rat (queries)");
}

template void rat_padding(const RatShape&, const RatRows&, const RatPadding<float>&, cudaStream_t);
template void rat_padding(const RatShape&, const RatRows&, const RatPadding<bf16>&, cudaStream_t);
template void rat_rotate(const RatShape&, const RatChunk*, const float*, const float*, const RowsRef<const float>&,
                         const ChunkRows<float>&, cudaStream_t);
template void rat_rotate(const RatShape&, const RatChunk*, const float*, const float*, const RowsRef<const bf16>&,
                         const ChunkRows<bf16>&, cudaStream_t);

}  // namespace rattan::kernels::cuda
