// All three gradients in one pass, for Hopper: one block 128 keys of a key head, five products a tile of 64 queries.
// Score gradients also go to shared memory, where the two warpgroups take them up, a tile later, for their halves of
// the channels of dq; the copy engine adds those to the sums in global memory. Each tile counts the contributions to
// its sums, and a block waits for its turn, so that the order of the additions is fixed: by blocks of keys, then by
// heads. Blocks are numbered in that order as they start and visit queries from the last to the first: what a block
// waits for is done by blocks that started before it and are ahead of it.
#include "rattan/kernels/cuda/interval_block_hopper.cuh"
#include "rattan/kernels/cuda/launch.h"
#include "rattan/kernels/cuda/tensor_map.h"

namespace rattan::kernels::cuda {

namespace interval_joint_hopper_file {

constexpr int kKeys = kBlockKeys, kRows = kTileRows, kStages = 2, kThreads = 384, D = 128;
constexpr int kHalf = D / 2, kBoxChannels = 32;  // of dq
static_assert(kBoxChannels * sizeof(float) == 128 && kHalf % kBoxChannels == 0);

// What consumers need to know of a tile.
struct TileNote {
  QueryTile seen;
  bool last;  // there is no more
};

// What one block of threads works on: a block of keys of one head, and the tiles of queries in sight of it.
struct Block {
  int index, kv_head, first, last, group, q_heads;
};

struct Memory {
  bf16 k[kKeys * D], v[kKeys * D];
  bf16 q[kStages][kRows * D], d_o[kStages][kRows * D];
  bf16 d_scores[2][kRows * kKeys];  // [queries, keys], laid out like a tile of kKeys channels
  float dq[2][2][kRows * kHalf];    // by turns and halves of the channels, boxes of [kRows, kBoxChannels]
  RowStatistics rows[kStages];
  TileNote notes[kStages];
  Barrier keys_full, full[kStages], empty[kStages], scores_full[2], scores_empty[2];
  Barrier dq_full[2][2], dq_empty[2][2];  // like dq
  Block block;
};

template <class U>
struct Args {
  IntervalBackward<bf16, U> a;
  CUtensorMap q, d_o, k, v, dq;
  BlockPlan plan;
};

// Arrives at barrier `id` of `threads` threads without waiting.
__device__ inline void arrive_threads(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
// Stores the transposes of four 8 x 8 matrices; lane t has the address of row t mod 8 of matrix t / 8.
__device__ inline void store_transposed(unsigned to, const unsigned (&r)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(r[0]), "r"(r[1]),
               "r"(r[2]), "r"(r[3])
               : "memory");
}
__device__ inline void store_pair(unsigned to, float x, float y) {
  asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(to), "f"(x), "f"(y) : "memory");
}

__device__ inline void store_box(const CUtensorMap& map, const float* from, int channel, int head, int row) {
  asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(&map),
               "r"(shared_address(from)), "r"(channel), "r"(head), "r"(row)
               : "memory");
}
__device__ inline void add_box(const CUtensorMap& map, const float* from, int channel, int head, int row) {
  asm volatile(
      "cp.reduce.async.bulk.tensor.3d.global.shared::cta.add.tile.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(&map),
      "r"(shared_address(from)), "r"(channel), "r"(head), "r"(row)
      : "memory");
}
// Waits until what this thread sent and committed has been written.
__device__ inline void wait_written() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

// Waits until *p is `value`; what its writer did before is done then.
__device__ inline void wait_for(const int* p, int value) {
  int x;
  do {
    asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(x) : "l"(p) : "memory");
  } while (x != value);
}
__device__ inline void store_release(int* p, int x) {
  asm volatile("st.release.gpu.global.s32 [%0], %1;" ::"l"(p), "r"(x) : "memory");
}
template <class U>
__device__ void find_block(const Args<U>& p, Block& b) {
  const int ticket = atomicAdd(p.plan.ticket, 1), kv_heads = static_cast<int>(p.a.kv_heads);
  const int2 range = p.plan.range[ticket / kv_heads];
  b.index = ticket / kv_heads, b.kv_head = ticket % kv_heads;
  b.first = range.x, b.last = range.y - 1;
  b.group = static_cast<int>(p.a.heads) / kv_heads, b.q_heads = static_cast<int>(p.a.q_heads);
}

// What a block works on: its tiles that see any of its keys, from the last to the first, and for each the query heads
// of its key head.
struct Work {
  const QueryTile* tiles;
  const Block& b;
  int tile, head;  // tile < b.first: there is no more

  __device__ Work(const QueryTile* tiles_in, const Block& b_in) : tiles(tiles_in), b(b_in), tile(b.last + 1) {
    next_tile();
  }
  __device__ bool any() const { return tile >= b.first; }
  __device__ void next() {
    if (++head == (b.kv_head + 1) * b.group) next_tile();
  }

 private:
  __device__ void next_tile() {
    const int key0 = b.index * kKeys, first = b.first;
    head = b.kv_head * b.group;
    do {
      --tile;
    } while (tile >= first && (tiles[tile].low - key0 >= kKeys || tiles[tile].high <= key0));
  }
};

// One thread: keys and values, then queries with their output gradients.
template <class U>
__device__ void copy_tiles(const Args<U>& p, Memory& m) {
  const Block& b = m.block;
  arrive_expecting(m.keys_full, 2 * kKeys * D * 2);
  copy_tile<kKeys, D>(m.k, p.k, m.keys_full, b.kv_head, b.index * kKeys);
  copy_tile<kKeys, D>(m.v, p.v, m.keys_full, b.kv_head, b.index * kKeys);
  Turn<kStages> turn;
  for (Work work(p.plan.tiles, b); work.any(); work.next()) {
    wait(m.empty[turn.stage], turn.parity ^ 1);
    Barrier& full = m.full[turn.stage];
    arrive_expecting(full, 2 * kRows * D * 2);
    copy_tile<kRows, D>(m.q[turn.stage], p.q, full, work.head % b.q_heads, work.tile * kRows);
    copy_tile<kRows, D>(m.d_o[turn.stage], p.d_o, full, work.head, work.tile * kRows);
    turn.next();
  }
}

// One warp: what belongs to the rows of those tiles.
template <class U>
__device__ void stream_statistics(const Args<U>& p, Memory& m) {
  const int lane = threadIdx.x % 32;
  Turn<kStages> turn;
  for (Work work(p.plan.tiles, m.block); work.any();) {
    const int64_t row0 = int64_t{work.tile} * kRows;
    TileNote note{p.plan.tiles[work.tile], false};
    const int head = work.head;
    wait(m.empty[turn.stage], turn.parity ^ 1);
    copy_statistics(m.rows[turn.stage], p.a, row0, head);
    arrive_after_copies(m.full[turn.stage]);
    work.next();
    note.last = !work.any();
    if (lane == 0) {
      m.notes[turn.stage] = note;
      arrive(m.full[turn.stage]);
    }
    turn.next();
  }
}

// How many contributions to a tile of dq come before this one, by blocks of keys and then by heads.
template <class U>
__device__ int turn_of(const Args<U>& p, const Work& work) {
  const int before = work.b.index - p.plan.tiles[work.tile].low / kKeys;
  return before * static_cast<int>(p.a.heads / p.a.q_heads) + work.head / work.b.q_heads;
}

// One thread of each of two warps, which take the contributions by turns: what they wait for takes longer than the
// products. Nothing but the copy engine touches dq here, so that the counters order its accesses without fences.
template <class U>
__device__ void send_dq(const Args<U>& p, Memory& m, int sender) {
  unsigned parity = 0;
  Work work(p.plan.tiles, m.block);
  if (sender == 1 && work.any()) work.next();
  int turn = work.any() ? turn_of(p, work) : 0;
  while (work.any()) {
    const int q_head = work.head % work.b.q_heads, row0 = work.tile * kRows;
    int* turns = p.plan.turns + int64_t{work.tile} * work.b.q_heads + q_head;
    wait_for(turns, turn);
    for (int half = 0; half < 2; ++half) {
      wait(m.dq_full[sender][half], parity);
#pragma unroll
      for (int c = 0; c < kHalf; c += kBoxChannels) {
        const float* from = m.dq[sender][half] + c * kRows;
        if (turn == 0) {
          store_box(p.dq, from, half * kHalf + c, q_head, row0);
        } else {
          add_box(p.dq, from, half * kHalf + c, q_head, row0);
        }
      }
      commit_sent();
    }
    wait_sent();
    arrive(m.dq_empty[sender][0]);
    arrive(m.dq_empty[sender][1]);
    parity ^= 1;
    const int done = turn + 1;
    work.next();
    if (work.any()) work.next();
    if (work.any()) turn = turn_of(p, work);
    wait_written();
    store_release(turns, done);
  }
}

// dq[64 rows, half of the channels] = d_scores keys
__device__ inline void multiply_keys(float (&dq)[kHalf / 8][4], const bf16* d_scores, const bf16* keys) {
  const unsigned a = by_channels(d_scores), b = by_rows<kKeys>(keys);
#pragma unroll
  for (int j = 0; j < kKeys; j += 16) wgmma<true>(dq, a + channel_step<kRows>(j), b + row_step(j), j > 0);
}

// Score gradients [64 keys, 64 rows] of a warpgroup, transposed into its 64 columns.
__device__ inline void store_d_scores(bf16* to, const unsigned (&d_scores)[kRows / 16][4]) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
  const int row = lane / 16 * 8 + lane % 8, unit = (warp * 2 + lane / 8 % 2) ^ lane % 8;
  const unsigned at = shared_address(to) + row * 128 + unit * 16;
#pragma unroll
  for (int j = 0; j < kRows / 16; ++j) store_transposed(at + j * 16 * 128, d_scores[j]);
}

// A warpgroup's part of dq to boxes of 32 channels in the 128-byte swizzle. Odd rows store their column groups in
// another order: the rows of a half warp meet different banks.
__device__ inline void store_dq(float* to, const float (&dq)[kHalf / 8][4]) {
  const int lane = threadIdx.x % 32, row = lane / 4;
  const bool odd = row % 2;
  const unsigned base = shared_address(to) + (threadIdx.x / 32 % 4 * 16 + row) * 128 + lane % 2 * 8,
                 unit = (row ^ lane % 4 / 2 ^ (odd ? 4 : 0)) << 4;
#pragma unroll
  for (int n = 0; n < kHalf / 8; ++n) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float x = odd ? dq[n ^ 2][half * 2] : dq[n][half * 2],
                  y = odd ? dq[n ^ 2][half * 2 + 1] : dq[n][half * 2 + 1];
      store_pair(base + (unit ^ (n % 4 * 2) << 4) + n / 4 * kRows * 128 + half * 8 * 128, x, y);
    }
  }
}

// The values of the rows a thread has columns of, times `factor`.
__device__ inline void load_rows(float (&to)[kRows / 8][2], const float* from, float factor) {
#pragma unroll
  for (int n = 0; n < kRows / 8; ++n) {
    const auto pair = load_pack<2>(from + n * 8 + threadIdx.x % 4 * 2);
    to[n][0] = pair.item[0] * factor, to[n][1] = pair.item[1] * factor;
  }
}

template <class U>
__device__ void consume(const Args<U>& p, Memory& m) {
  const Block b = m.block;
  const int warpgroup = threadIdx.x / 128 - 1, lane = threadIdx.x % 32;
  const bool leads = threadIdx.x % 128 == 0;
  const int64_t key0 = int64_t{b.index} * kKeys + warpgroup * 64, own = key0 + threadIdx.x / 32 % 4 * 16 + lane / 4;
  bf16* k = m.k + warpgroup * 64 * 64;
  const bf16* v = m.v + warpgroup * 64 * 64;
  const bf16* channels = m.k + warpgroup * kHalf * kKeys;
  const float scale = p.a.scale * kLog2e, dq_scale = p.a.scale;
  float dk[D / 8][4], dv[D / 8][4];
  clear(dk);
  clear(dv);
  wait(m.keys_full, 0);
  const uint4 unseen = p.plan.unseen[b.index];
  const unsigned low = warpgroup == 0 ? unseen.x : unseen.z, high = warpgroup == 0 ? unseen.y : unseen.w;
  if (low | high) {
    const int warp = threadIdx.x / 32 % 4;
    if (warp < 2) zero_rows<kKeys, D>(k, warp * 32, warp == 0 ? low : high);
    fence_async();
    sync_threads(1 + warpgroup, 128);
  }
  Turn<kStages> turn;
  int count = 0;  // of tiles so far
  // The part of dq that belongs to the tile before, whose score gradients both warpgroups have stored long ago.
  const auto multiply = [&](float(&dq)[kHalf / 8][4]) {
    const int before = count - 1;
    wait(m.scores_full[before & 1], before >> 1 & 1);
    wgmma_fence();
    multiply_keys(dq, m.d_scores[before & 1], channels);
    wgmma_commit();
  };
  const auto share = [&](const unsigned(&d_scores)[kRows / 16][4]) {
    wait(m.scores_empty[count & 1], (count >> 1 & 1) ^ 1);
    store_d_scores(m.d_scores[count & 1] + warpgroup * 64 * kRows, d_scores);
    fence_async();
    __syncwarp();
    if (lane == 0) arrive(m.scores_full[count & 1]);
  };
  // The warpgroups take turns with their scores: one's products are made while the other takes exponentials.
  const auto pass_turn = [&](bool last) {
    if (warpgroup == 0 || !last) arrive_threads(5 - warpgroup, 256);
  };
  const auto pass_on = [&](const float(&dq)[kHalf / 8][4]) {
    if (count == 0) return;  // there is none before the first
    const int before = count - 1;
    if (leads) arrive(m.scores_empty[before & 1]);
    wait(m.dq_empty[before & 1][warpgroup], (before >> 1 & 1) ^ 1);
    store_dq(m.dq[before & 1][warpgroup], dq);
    fence_async();
    sync_threads(1 + warpgroup, 128);
    if (leads) arrive(m.dq_full[before & 1][warpgroup]);
  };
  bool more = b.first <= b.last;
  if (more && warpgroup == 1) arrive_threads(4, 256);
  while (more) {
    float s[kRows / 8][4], dp[kRows / 8][4];
    wait(m.full[turn.stage], turn.parity);
    const TileNote note = m.notes[turn.stage];
    const RowStatistics& rows = m.rows[turn.stage];
    bf16 *q = m.q[turn.stage], *d_o = m.d_o[turn.stage];
    if (note.seen.least_end == 0) zero_blind<D>(rows, q, d_o);
    sync_threads(4 + warpgroup, 256);
    if (!__any_sync(kAllLanes, note.seen.low < key0 + 64 && note.seen.high > key0)) {
      // The keys of the other warpgroup alone are seen.
      pass_turn(note.last);
      const unsigned zeros[kRows / 16][4] = {};
      share(zeros);
      float dq[kHalf / 8][4];
      multiply(dq);
      wgmma_wait<0>();
      pin(dq);
      pass_on(dq);
    } else {
      wgmma_fence();
      multiply_scores<D>(s, k, q);
      wgmma_commit();
      multiply_scores<D>(dp, v, d_o);
      wgmma_commit();
      const bool whole = note.seen.most_begin <= key0 && note.seen.least_end >= key0 + 64;
      float row[kRows / 8][2];  // a statistic of the rows of this thread
      load_rows(row, rows.lse, kLog2e);
      wgmma_wait<1>();
      pin(s);
#pragma unroll
      for (int n = 0; n < kRows / 8; ++n) {
#pragma unroll
        for (int j = 0; j < 4; ++j) s[n][j] = fast_exp2(s[n][j] * scale - row[n][j % 2]);
      }
      if (!whole) hide(s, rows, own);
      unsigned probabilities[kRows / 16][4];
      pack(probabilities, s);
      wgmma_fence();
      multiply_rows<D>(dv, probabilities, d_o);
      wgmma_commit();
      pass_turn(note.last);
      load_rows(row, rows.delta, dq_scale);
      wgmma_wait<1>();
      pin(dp);
#pragma unroll
      for (int n = 0; n < kRows / 8; ++n) {
#pragma unroll
        for (int j = 0; j < 4; ++j) dp[n][j] = s[n][j] * (dp[n][j] * dq_scale - row[n][j % 2]);
      }
      if (!whole) hide_where_zero(dp, s);
      unsigned d_scores[kRows / 16][4];
      pack(d_scores, dp);
      share(d_scores);
      float dq[kHalf / 8][4];
      multiply(dq);
      multiply_rows<D>(dk, d_scores, q);
      wgmma_commit();
      wgmma_wait<1>();
      pin(dv);
      pin(dq);
      pass_on(dq);
      wgmma_wait<0>();
      pin(dk);
    }
    __syncwarp();
    if (lane == 0) arrive(m.empty[turn.stage]);
    more = !note.last;
    turn.next();
    ++count;
  }
  if (count > 0) {
    float dq[kHalf / 8][4];
    multiply(dq);
    wgmma_wait<0>();
    pin(dq);
    pass_on(dq);
  }
  const int dim = static_cast<int>(p.a.dim);
  write_accumulators(p.a.dk, b.kv_head, key0, p.a.keys, dim, dk, 1.0f, p.a.accumulate);
  write_accumulators(p.a.dv, b.kv_head, key0, p.a.keys, dim, dv, 1.0f, p.a.accumulate);
}

template <class U>
__global__ void __launch_bounds__(kThreads, 1) kernel([[maybe_unused]] const __grid_constant__ Args<U> p) {
#ifdef RATTAN_HOPPER_CODE
  if (p.plan.joint && !*p.plan.joint) return;
  extern __shared__ __align__(1024) uint8_t memory[];
  auto& m = *reinterpret_cast<Memory*>(memory);
  if (shared_address(memory) % 1024 != 0) __trap();  // there is no room left to align it by hand
  if (threadIdx.x == 0) {
    find_block(p, m.block);
    init_barrier(m.keys_full, 1);
    for (int s = 0; s < kStages; ++s) {
      init_barrier(m.full[s], 1 + 32 + 1);
      init_barrier(m.empty[s], 8);
    }
    for (int s = 0; s < 2; ++s) {
      init_barrier(m.scores_full[s], 8);
      init_barrier(m.scores_empty[s], 2);
      for (int half = 0; half < 2; ++half) {
        init_barrier(m.dq_full[s][half], 1);
        init_barrier(m.dq_empty[s][half], 1);
      }
    }
    fence_barriers();
  }
  __syncthreads();
  if (threadIdx.x < 128) {
    keep_registers<24>();
    const int warp = threadIdx.x / 32;
    if (warp == 1) stream_statistics<U>(p, m);
    if (threadIdx.x % 32 != 0) return;
    if (warp == 0) copy_tiles<U>(p, m);
    if (warp >= 2) send_dq<U>(p, m, warp - 2);
  } else {
    take_registers<240>();
    consume<U>(p, m);
  }
#endif
}

}  // namespace interval_joint_hopper_file

template <class U>
void interval_joint_hopper(const IntervalBackward<bf16, U>& a, const HeadsRef<float>& dq, const BlockPlan& plan,
                           void* stream_pointer) {
  using namespace interval_joint_hopper_file;
  const Args<U> p{a,
                  tensor_map(a.q, a.queries, a.q_heads, a.dim, kRows),
                  tensor_map(a.d_o, a.queries, a.heads, a.dim, kRows),
                  tensor_map(a.k, a.keys, a.kv_heads, a.dim, kKeys),
                  tensor_map(a.v, a.keys, a.kv_heads, a.dim, kKeys),
                  tensor_map(dq, a.queries, a.q_heads, a.dim, kRows),
                  plan};
  constexpr int64_t bytes = sizeof(Memory);
  static_assert(bytes <= 227 * 1024);
  const auto grid = static_cast<unsigned>(blocks_for(a.keys, kKeys) * a.kv_heads);
  allow_shared_memory(reinterpret_cast<const void*>(kernel<U>), bytes, "attention_backward (joint)");
  kernel<U><<<grid, kThreads, bytes, static_cast<cudaStream_t>(stream_pointer)>>>(p);
  check_launch("attention_backward (joint, Hopper)");
}
template void interval_joint_hopper(const IntervalBackward<bf16, bf16>& a, const HeadsRef<float>& dq,
                                    const BlockPlan& plan, void* stream);
template void interval_joint_hopper(const IntervalBackward<bf16, float>& a, const HeadsRef<float>& dq,
                                    const BlockPlan& plan, void* stream);

}  // namespace rattan::kernels::cuda
