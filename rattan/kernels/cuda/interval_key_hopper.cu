// The gradients of keys and values, for Hopper: one block 128 keys of a key head, whose two warpgroups own 64 keys
// each. A producer streams tiles of 64 queries with their output gradients and statistics. The products are made with
// the keys as rows, so that probabilities and score gradients are left operands from registers.
#include "rattan/kernels/cuda/hopper.cuh"
#include "rattan/kernels/cuda/interval_backward_hopper.cuh"
#include "rattan/kernels/cuda/launch.h"
#include "rattan/kernels/cuda/tensor_map.h"

namespace rattan::kernels::cuda {

namespace interval_key_hopper_file {

constexpr int kKeys = 128, kRows = 64, kStages = 3, kThreads = 384;

// What the rows of a tile see: [low, high) holds all intervals; each row sees [most_begin, least_end). least_end is 0
// where a row sees nothing.
struct alignas(16) Tile {
  int low, high, most_begin, least_end;
};

struct Statistics {
  float lse[kRows], delta[kRows];
  int begin[kRows], end[kRows];
};

template <int D>
struct Memory {
  bf16 k[kKeys * D], v[kKeys * D];
  bf16 q[kStages][kRows * D], d_o[kStages][kRows * D];
  Statistics rows[kStages];
  Barrier keys_full, full[kStages], empty[kStages];
};

template <class U>
struct Args {
  IntervalBackward<bf16, U> a;
  CUtensorMap q, d_o, k, v;
  const Tile* tiles;
  const int2* range;  // of tiles that may see a block of keys
};

// One warp a tile of queries.
__global__ void tiles_kernel(const int32_t* begin, const int32_t* end, int64_t queries, Tile* tiles, int64_t count) {
  const int64_t tile = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / 32;
  if (tile >= count) return;
  Tile t{0x7fffffff, 0, 0, 0x7fffffff};
  for (int r = threadIdx.x % 32; r < kRows; r += 32) {
    const int64_t row = tile * kRows + r;
    const int b = row < queries ? begin[row] : 0, e = row < queries ? end[row] : 0;
    if (b >= e) {
      t.least_end = 0;
      continue;
    }
    t.low = min(t.low, b), t.high = max(t.high, e), t.most_begin = max(t.most_begin, b);
    t.least_end = min(t.least_end, e);
  }
  t.low = __reduce_min_sync(kAllLanes, t.low), t.high = __reduce_max_sync(kAllLanes, t.high);
  t.most_begin = __reduce_max_sync(kAllLanes, t.most_begin), t.least_end = __reduce_min_sync(kAllLanes, t.least_end);
  if (threadIdx.x % 32 == 0) tiles[tile] = t;
}

__device__ inline bool sees(const Tile& t, int64_t key0) { return t.low < key0 + kKeys && t.high > key0; }

// One warp a block of keys.
__global__ void range_kernel(const Tile* tiles, int64_t count, int2* range, int64_t blocks) {
  const int64_t block = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / 32;
  if (block >= blocks) return;
  int first = 0x7fffffff, last = 0;
  for (int64_t t = threadIdx.x % 32; t < count; t += 32) {
    if (!sees(tiles[t], block * kKeys)) continue;
    first = min(first, static_cast<int>(t));
    last = max(last, static_cast<int>(t) + 1);
  }
  first = __reduce_min_sync(kAllLanes, first);
  last = __reduce_max_sync(kAllLanes, last);
  if (threadIdx.x % 32 == 0) range[block] = int2{first < last ? first : 0, last};
}

// delta = d_o·o - d_lse. One warp a row and head.
__global__ void delta_kernel(int64_t queries, int64_t heads, int dim, HeadsRef<const bf16> o, HeadsRef<const bf16> d_o,
                             const float* d_lse, float* delta) {
  const int64_t pair = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / 32;
  if (pair >= queries * heads) return;
  const int64_t row = pair / heads, head = pair - row * heads;
  const bf16 *x = at(o, row, head), *y = at(d_o, row, head);
  float sum = 0;
  for (int c = threadIdx.x % 32 * 4; c < dim; c += 128) {
    const auto u = load_pack<4>(x + c), w = load_pack<4>(y + c);
#pragma unroll
    for (int i = 0; i < 4; ++i) sum += as_float(u.item[i]) * as_float(w.item[i]);
  }
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) delta[pair] = d_lse ? sum - d_lse[pair] : sum;
}

__device__ inline int next_tile(const Tile* tiles, int tile, int last, int64_t key0) {
  while (tile < last && !sees(tiles[tile], key0)) ++tile;
  return tile;
}

template <class U, int D>
__device__ void produce(const Args<U>& p, Memory<D>& m, int64_t key0, int kv_head, int2 range) {
  const int group = static_cast<int>(p.a.heads / p.a.kv_heads), q_heads = static_cast<int>(p.a.q_heads);
  const int lane = threadIdx.x % 32;
  const bool copies_tiles = threadIdx.x < 32, leads = threadIdx.x == 0;
  if (leads) {
    arrive_expecting(m.keys_full, 2 * kKeys * D * 2);
    copy_tile<kKeys, D>(m.k, p.k, m.keys_full, kv_head, static_cast<int>(key0));
    copy_tile<kKeys, D>(m.v, p.v, m.keys_full, kv_head, static_cast<int>(key0));
  }
  Turn<kStages> turn;
  for (int tile = next_tile(p.tiles, range.x, range.y, key0); tile < range.y;
       tile = next_tile(p.tiles, tile + 1, range.y, key0)) {
    const int64_t row0 = int64_t{tile} * kRows;
    for (int head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      wait(m.empty[turn.stage], turn.parity ^ 1);
      Barrier& full = m.full[turn.stage];
      if (leads) {
        arrive_expecting(full, 2 * kRows * D * 2);
        copy_tile<kRows, D>(m.q[turn.stage], p.q, full, head % q_heads, static_cast<int>(row0));
        copy_tile<kRows, D>(m.d_o[turn.stage], p.d_o, full, head, static_cast<int>(row0));
      }
      if (!copies_tiles) {
        Statistics& rows = m.rows[turn.stage];
#pragma unroll
        for (int r = lane; r < kRows; r += 32) {
          const bool in = row0 + r < p.a.queries;
          const int64_t row = in ? row0 + r : 0, pair = row * p.a.heads + head;
          copy4_async(&rows.lse[r], p.a.lse + pair, in);
          copy4_async(&rows.delta[r], p.a.delta + pair, in);
          copy4_async(&rows.begin[r], p.a.begin + row, in);
          copy4_async(&rows.end[r], p.a.end + row, in);
        }
        arrive_after_copies(full);
      }
      turn.next();
    }
  }
}

// s[64 keys, 64 rows] = keys rows^T
template <int D>
__device__ void multiply_scores(float (&s)[kRows / 8][4], const bf16* keys, const bf16* rows) {
  const unsigned a = by_channels(keys), b = by_channels(rows);
#pragma unroll
  for (int c = 0; c < D; c += 16) wgmma<false>(s, a + channel_step<kKeys>(c), b + channel_step<kRows>(c), c > 0);
}

template <int D>
__device__ void multiply_rows(float (&acc)[D / 8][4], const unsigned (&p)[kRows / 16][4], const bf16* rows) {
  const unsigned b = by_rows<kRows>(rows);
#pragma unroll
  for (int j = 0; j < kRows / 16; ++j) wgmma<true>(acc, p[j], b + row_step(j * 16), true);
}

// Rows that see nothing become zeros: whatever they contain (NaN too) stays out of the products. Each warpgroup
// writes all of them: the same zeros.
template <int D>
__device__ void zero_blind(const Statistics& rows, bf16* q, bf16* d_o, int warpgroup) {
  const int r = threadIdx.x % 64;
  zero_rows<kRows, D>(threadIdx.x / 64 % 2 ? q : d_o, r / 32 * 32,
                      __ballot_sync(kAllLanes, rows.begin[r] >= rows.end[r]));
  fence_async();
  sync_threads(1 + warpgroup, 128);
}

// Zeroes what the keys of this thread (rows `key`, `key` + 8) do not pass on.
__device__ inline void hide(float (&s)[kRows / 8][4], const Statistics& rows, int64_t key) {
#pragma unroll
  for (int n = 0; n < kRows / 8; ++n) {
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
__device__ inline void hide_where_zero(float (&dp)[kRows / 8][4], const float (&s)[kRows / 8][4]) {
#pragma unroll
  for (int n = 0; n < kRows / 8; ++n) {
#pragma unroll
    for (int j = 0; j < 4; ++j) dp[n][j] = s[n][j] == 0 ? 0.0f : dp[n][j];
  }
}

template <class U, int D>
__device__ void consume(const Args<U>& p, Memory<D>& m, int64_t block0, int kv_head, int2 range) {
  const int warpgroup = threadIdx.x / 128 - 1, lane = threadIdx.x % 32,
            group = static_cast<int>(p.a.heads / p.a.kv_heads);
  const int64_t key0 = block0 + warpgroup * 64, own = key0 + threadIdx.x / 32 % 4 * 16 + lane / 4;
  const bf16 *k = m.k + warpgroup * 64 * 64, *v = m.v + warpgroup * 64 * 64;
  const float scale = p.a.scale * kLog2e;
  float dk[D / 8][4], dv[D / 8][4], s[kRows / 8][4], dp[kRows / 8][4];
  clear(dk);
  clear(dv);
  wait(m.keys_full, 0);
  Turn<kStages> turn;
  int tile = next_tile(p.tiles, range.x, range.y, block0);
  while (tile < range.y) {
    const Tile seen = p.tiles[tile];
    int following = range.y;
    const bool whole = seen.most_begin <= key0 && seen.least_end >= key0 + 64;
    for (int i = 0; i < group; ++i) {
      wait(m.full[turn.stage], turn.parity);
      const Statistics& rows = m.rows[turn.stage];
      bf16 *q = m.q[turn.stage], *d_o = m.d_o[turn.stage];
      if (seen.least_end == 0) zero_blind<D>(rows, q, d_o, warpgroup);
      wgmma_fence();
      multiply_scores<D>(s, k, q);
      wgmma_commit();
      multiply_scores<D>(dp, v, d_o);
      wgmma_commit();
      if (i == 0) following = next_tile(p.tiles, tile + 1, range.y, block0);  // while the products are made
      wgmma_wait<1>();
      pin(s);
#pragma unroll
      for (int n = 0; n < kRows / 8; ++n) {
        const auto lse = load_pack<2>(rows.lse + n * 8 + lane % 4 * 2);
#pragma unroll
        for (int j = 0; j < 4; ++j) s[n][j] = fast_exp2(s[n][j] * scale - lse.item[j % 2] * kLog2e);
      }
      if (!whole) hide(s, rows, own);
      unsigned probabilities[kRows / 16][4];
      pack(probabilities, s);
      wgmma_fence();
      multiply_rows<D>(dv, probabilities, d_o);
      wgmma_commit();
      wgmma_wait<1>();
      pin(dp);
#pragma unroll
      for (int n = 0; n < kRows / 8; ++n) {
        const auto delta = load_pack<2>(rows.delta + n * 8 + lane % 4 * 2);
#pragma unroll
        for (int j = 0; j < 4; ++j) dp[n][j] = s[n][j] * (dp[n][j] - delta.item[j % 2]);
      }
      if (!whole) hide_where_zero(dp, s);
      unsigned d_scores[kRows / 16][4];
      pack(d_scores, dp);
      wgmma_fence();
      multiply_rows<D>(dk, d_scores, q);
      wgmma_commit();
      wgmma_wait<0>();
      pin(dv);
      pin(dk);
      if (threadIdx.x % 128 == 0) arrive(m.empty[turn.stage]);
      turn.next();
    }
    tile = following;
  }
  const int dim = static_cast<int>(p.a.dim);
  write_accumulators(p.a.dk, kv_head, key0, p.a.keys, dim, dk, p.a.scale, p.a.accumulate);
  write_accumulators(p.a.dv, kv_head, key0, p.a.keys, dim, dv, 1.0f, p.a.accumulate);
}

template <class U, int D>
__global__ void __launch_bounds__(kThreads, 1) kernel([[maybe_unused]] const __grid_constant__ Args<U> p) {
#ifdef RATTAN_HOPPER_CODE
  extern __shared__ uint8_t memory[];
  auto& m = *reinterpret_cast<Memory<D>*>((reinterpret_cast<uintptr_t>(memory) + 1023) / 1024 * 1024);
  if (threadIdx.x == 0) {
    init_barrier(m.keys_full, 1);
    for (int s = 0; s < kStages; ++s) {
      init_barrier(m.full[s], 1 + 32);
      init_barrier(m.empty[s], 2);
    }
    fence_barriers();
  }
  __syncthreads();
  const int64_t key0 = int64_t{blockIdx.x} * kKeys;
  const int2 range = p.range[blockIdx.x];
  if (threadIdx.x < 128) {
    keep_registers<24>();
    if (threadIdx.x < 64) produce<U, D>(p, m, key0, blockIdx.y, range);
  } else {
    take_registers<240>();
    consume<U, D>(p, m, key0, blockIdx.y, range);
  }
#endif
}

template <class U, int D>
void launch(const IntervalBackward<bf16, U>& a, const Tile* tiles, const int2* range, cudaStream_t stream) {
  const Args<U> p{a,
                  tensor_map(a.q, a.queries, a.q_heads, a.dim, kRows),
                  tensor_map(a.d_o, a.queries, a.heads, a.dim, kRows),
                  tensor_map(a.k, a.keys, a.kv_heads, a.dim, kKeys),
                  tensor_map(a.v, a.keys, a.kv_heads, a.dim, kKeys),
                  tiles,
                  range};
  constexpr int64_t bytes = sizeof(Memory<D>) + 1024;
  allow_shared_memory(reinterpret_cast<const void*>(kernel<U, D>), bytes, "attention_backward (keys)");
  const dim3 grid(static_cast<unsigned>(blocks_for(a.keys, kKeys)), static_cast<unsigned>(a.kv_heads));
  kernel<U, D><<<grid, kThreads, bytes, stream>>>(p);
  check_launch("attention_backward (keys, Hopper)");
}

int64_t rounded(int64_t bytes) { return (bytes + 255) / 256 * 256; }
int64_t tile_bytes(int64_t queries) { return rounded(blocks_for(queries, kRows) * sizeof(Tile)); }
int64_t range_bytes(int64_t keys) { return rounded(blocks_for(keys, kKeys) * sizeof(int2)); }

}  // namespace interval_key_hopper_file

int64_t interval_backward_scratch_bytes(int64_t queries, int64_t keys, int64_t heads) {
  using namespace interval_key_hopper_file;
  return tile_bytes(queries) + range_bytes(keys) + queries * heads * 4;
}

template <class U>
void interval_backward_hopper(IntervalBackward<bf16, U> a, void* stream_pointer) {
  using namespace interval_key_hopper_file;
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  auto* memory = static_cast<char*>(a.scratch);
  auto* tiles = reinterpret_cast<Tile*>(memory);
  auto* range = reinterpret_cast<int2*>(memory + tile_bytes(a.queries));
  if (a.delta == nullptr) {
    auto* delta = reinterpret_cast<float*>(memory + tile_bytes(a.queries) + range_bytes(a.keys));
    const int64_t warps = a.queries * a.heads;
    delta_kernel<<<static_cast<unsigned>(blocks_for(warps, 8)), 256, 0, stream>>>(
        a.queries, a.heads, static_cast<int>(a.dim), a.o, a.d_o, a.d_lse, delta);
    check_launch("attention_backward (delta)");
    a.delta = delta;
  }
  interval_query_hopper(a, stream);
  const int64_t count = blocks_for(a.queries, kRows), blocks = blocks_for(a.keys, kKeys);
  tiles_kernel<<<static_cast<unsigned>(blocks_for(count, 8)), 256, 0, stream>>>(a.begin, a.end, a.queries, tiles,
                                                                                count);
  check_launch("attention_backward (tiles)");
  range_kernel<<<static_cast<unsigned>(blocks_for(blocks, 8)), 256, 0, stream>>>(tiles, count, range, blocks);
  check_launch("attention_backward (range)");
  if (a.dim <= 64) return launch<U, 64>(a, tiles, range, stream);
  launch<U, 128>(a, tiles, range, stream);
}
template void interval_backward_hopper(IntervalBackward<bf16, bf16> a, void* stream);
template void interval_backward_hopper(IntervalBackward<bf16, float> a, void* stream);

}  // namespace rattan::kernels::cuda
