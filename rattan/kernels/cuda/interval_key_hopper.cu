// The gradients of keys and values, for Hopper: one block 128 keys of a key head. A producer streams tiles of 64
// queries with their output gradients and statistics.
#include "rattan/kernels/cuda/interval_block_hopper.cuh"
#include "rattan/kernels/cuda/launch.h"
#include "rattan/kernels/cuda/tensor_map.h"

namespace rattan::kernels::cuda {

namespace interval_key_hopper_file {

constexpr int kKeys = kBlockKeys, kRows = kTileRows, kStages = 3, kThreads = 384;

template <int D>
struct Memory {
  bf16 k[kKeys * D], v[kKeys * D];
  bf16 q[kStages][kRows * D], d_o[kStages][kRows * D];
  RowStatistics rows[kStages];
  Barrier keys_full, full[kStages], empty[kStages];
};

template <class U>
struct Args {
  IntervalBackward<bf16, U> a;
  CUtensorMap q, d_o, k, v;
  BlockPlan plan;
};

template <class U, int D>
__device__ void produce(const Args<U>& p, Memory<D>& m, int64_t key0, int kv_head, int2 range) {
  const int group = static_cast<int>(p.a.heads / p.a.kv_heads), q_heads = static_cast<int>(p.a.q_heads);
  const bool copies_tiles = threadIdx.x < 32, leads = threadIdx.x == 0;
  if (leads) {
    arrive_expecting(m.keys_full, 2 * kKeys * D * 2);
    copy_tile<kKeys, D>(m.k, p.k, m.keys_full, kv_head, static_cast<int>(key0));
    copy_tile<kKeys, D>(m.v, p.v, m.keys_full, kv_head, static_cast<int>(key0));
  }
  Turn<kStages> turn;
  for (int tile = next_tile(p.plan.tiles, range.x, range.y, key0); tile < range.y;
       tile = next_tile(p.plan.tiles, tile + 1, range.y, key0)) {
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
        copy_statistics(m.rows[turn.stage], p.a, row0, head);
        arrive_after_copies(full);
      }
      turn.next();
    }
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
  int tile = next_tile(p.plan.tiles, range.x, range.y, block0);
  while (tile < range.y) {
    const QueryTile seen = p.plan.tiles[tile];
    int following = range.y;
    const bool whole = seen.most_begin <= key0 && seen.least_end >= key0 + 64;
    for (int i = 0; i < group; ++i) {
      wait(m.full[turn.stage], turn.parity);
      const RowStatistics& rows = m.rows[turn.stage];
      bf16 *q = m.q[turn.stage], *d_o = m.d_o[turn.stage];
      if (seen.least_end == 0) zero_blind<D>(rows, q, d_o);
      wgmma_fence();
      multiply_scores<D>(s, k, q);
      wgmma_commit();
      multiply_scores<D>(dp, v, d_o);
      wgmma_commit();
      if (i == 0) following = next_tile(p.plan.tiles, tile + 1, range.y, block0);  // while the products are made
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
      __syncwarp();
      if (lane == 0) arrive(m.empty[turn.stage]);
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
  if (p.plan.joint && *p.plan.joint) return;
  extern __shared__ uint8_t memory[];
  auto& m = aligned_memory<Memory<D>>(memory);
  if (threadIdx.x == 0) {
    init_barrier(m.keys_full, 1);
    for (int s = 0; s < kStages; ++s) {
      init_barrier(m.full[s], 1 + 32);
      init_barrier(m.empty[s], 8);
    }
    fence_barriers();
  }
  __syncthreads();
  const int64_t key0 = int64_t{blockIdx.x} * kKeys;
  const int2 range = p.plan.range[blockIdx.x];
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
void launch(const IntervalBackward<bf16, U>& a, const BlockPlan& plan, cudaStream_t stream) {
  const Args<U> p{a,
                  tensor_map(a.q, a.queries, a.q_heads, a.dim, kRows),
                  tensor_map(a.d_o, a.queries, a.heads, a.dim, kRows),
                  tensor_map(a.k, a.keys, a.kv_heads, a.dim, kKeys),
                  tensor_map(a.v, a.keys, a.kv_heads, a.dim, kKeys),
                  plan};
  constexpr int64_t bytes = sizeof(Memory<D>) + 1024;
  allow_shared_memory(reinterpret_cast<const void*>(kernel<U, D>), bytes, "attention_backward (keys)");
  const dim3 grid(static_cast<unsigned>(blocks_for(a.keys, kKeys)), static_cast<unsigned>(a.kv_heads));
  kernel<U, D><<<grid, kThreads, bytes, stream>>>(p);
  check_launch("attention_backward (keys, Hopper)");
}

}  // namespace interval_key_hopper_file

template <class U>
void interval_key_hopper(const IntervalBackward<bf16, U>& a, const BlockPlan& plan, void* stream_pointer) {
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  if (a.dim <= 64) return interval_key_hopper_file::launch<U, 64>(a, plan, stream);
  interval_key_hopper_file::launch<U, 128>(a, plan, stream);
}
template void interval_key_hopper(const IntervalBackward<bf16, bf16>& a, const BlockPlan& plan, void* stream);
template void interval_key_hopper(const IntervalBackward<bf16, float>& a, const BlockPlan& plan, void* stream);

}  // namespace rattan::kernels::cuda
