// The gradient of the queries, for Hopper: one block a tile of 128 queries and a query head; it goes through the heads
// that share those queries, so that their sum stays in registers. Of its first warpgroup one warp streams the gradients
// of the outputs of each head and blocks of keys and values, and one zeroes what no row sees; two warpgroups own 64
// rows each.
#include "rattan/kernels/cuda/hopper.cuh"
#include "rattan/kernels/cuda/interval_backward_hopper.cuh"
#include "rattan/kernels/cuda/launch.h"
#include "rattan/kernels/cuda/tensor_map.h"
#include "rattan/kernels/cuda/tile_span.cuh"

namespace rattan::kernels::cuda {

namespace interval_query_hopper_file {

constexpr int kRows = 128, kKeys = 64, kStages = 3, kThreads = 384;

template <int D>
struct Memory {
  bf16 q[kRows * D];
  bf16 d_o[2][kRows * D];
  bf16 k[kStages][kKeys * D];
  bf16 v[kStages][kKeys * D];
  TileSpan<kRows> span;
  Barrier q_full, d_o_full[2], d_o_empty[2], raw[kStages], full[kStages], empty[kStages];
};

template <class U>
struct Args {
  IntervalBackward<bf16, U> a;
  CUtensorMap q, d_o, k, v;
};

// A warp.
template <class U, int D>
__device__ void produce(const Args<U>& p, Memory<D>& m, int64_t row0, int q_head) {
  const SeenBlocks<kKeys, kRows> blocks(m.span);
  const int group = static_cast<int>(p.a.heads) / static_cast<int>(p.a.kv_heads), row = static_cast<int>(row0);
  const bool leads = threadIdx.x == 0;
  Turn<2> head_turn;
  Turn<kStages> turn;
  for (int head = q_head; head < p.a.heads; head += static_cast<int>(p.a.q_heads)) {
    wait(m.d_o_empty[head_turn.stage], head_turn.parity ^ 1);
    if (leads) {
      arrive_expecting(m.d_o_full[head_turn.stage], kRows * D * 2);
      copy_tile<kRows, D>(m.d_o[head_turn.stage], p.d_o, m.d_o_full[head_turn.stage], head, row);
    }
    head_turn.next();
    const int kv_head = head / group;
    for (int key = blocks.first(); key < blocks.end(); key = blocks.after(key)) {
      wait(m.empty[turn.stage], turn.parity ^ 1);
      if (leads) {
        Barrier& full = blocks.all_seen(key) ? m.full[turn.stage] : m.raw[turn.stage];
        arrive_expecting(full, 2 * kKeys * D * 2);
        copy_tile<kKeys, D>(m.k[turn.stage], p.k, full, kv_head, key);
        copy_tile<kKeys, D>(m.v[turn.stage], p.v, full, kv_head, key);
      }
      turn.next();
    }
  }
}

// A warp: zeroes keys that no row sees.
template <class U, int D>
__device__ void clean_keys(const Args<U>& p, Memory<D>& m, int q_head) {
  const SeenBlocks<kKeys, kRows> blocks(m.span);
  Turn<kStages> turn;
  unsigned parities = 0;
  for (int head = q_head; head < p.a.heads; head += static_cast<int>(p.a.q_heads)) {
    for (int key = blocks.first(); key < blocks.end(); key = blocks.after(key), turn.next()) {
      if (blocks.all_seen(key)) continue;
      clean_block<kKeys, D>(m.span, m.k[turn.stage], key, m.raw[turn.stage], parities >> turn.stage & 1,
                            m.full[turn.stage]);
      parities ^= 1u << turn.stage;
    }
  }
}

template <int D>
__device__ void multiply_scores(float (&s)[kKeys / 8][4], const bf16* rows, const bf16* keys) {
  const unsigned a = by_channels(rows), b = by_channels(keys);
#pragma unroll
  for (int c = 0; c < D; c += 16) wgmma<false>(s, a + channel_step<kRows>(c), b + channel_step<kKeys>(c), c > 0);
}

// The statistics of the two rows of a thread; rows that see nothing have none.
struct Statistics {
  float lse[2], delta[2];
  template <class U>
  __device__ void load(const Args<U>& p, const bool (&sees)[2], int64_t row, int head) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int64_t at = (row + i * 8) * p.a.heads + head;
      lse[i] = sees[i] && head < p.a.heads ? p.a.lse[at] * kLog2e : 0.0f;
      delta[i] = sees[i] && head < p.a.heads ? p.a.delta[at] : 0.0f;
    }
  }
};

template <class U, int D>
__device__ void consume(const Args<U>& p, Memory<D>& m, int64_t row0, int q_head) {
  const int warpgroup = threadIdx.x / 128 - 1, lane = threadIdx.x % 32;
  const int own = warpgroup * 64 + threadIdx.x / 32 % 4 * 16 + lane / 4, step = static_cast<int>(p.a.q_heads);
  const bf16* q = m.q + warpgroup * 64 * 64;
  const float scale = p.a.scale * kLog2e;
  const SeenBlocks<kKeys, kRows> blocks(m.span);
  int begin[2], end[2];
  bool sees[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    begin[i] = m.span.begin[own + i * 8];
    end[i] = m.span.end[own + i * 8];
    sees[i] = begin[i] < end[i];
  }
  float dq[D / 8][4], s[kKeys / 8][4], dp[kKeys / 8][4];
  clear(dq);
  Statistics next;
  next.load(p, sees, row0 + own, q_head);
  wait(m.q_full, 0);
  Turn<2> head_turn;
  Turn<kStages> turn;
  for (int head = q_head; head < p.a.heads; head += step) {
    const Statistics now = next;
    next.load(p, sees, row0 + own, head + step);
    wait(m.d_o_full[head_turn.stage], head_turn.parity);
    const bf16* d_o = m.d_o[head_turn.stage] + warpgroup * 64 * 64;
    for (int key0 = blocks.first(); key0 < blocks.end(); key0 = blocks.after(key0)) {
      wait(m.full[turn.stage], turn.parity);
      wgmma_fence();
      multiply_scores<D>(s, q, m.k[turn.stage]);
      wgmma_commit();
      multiply_scores<D>(dp, d_o, m.v[turn.stage]);
      wgmma_commit();
      wgmma_wait<1>();
      pin(s);
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) s[n][i] = fast_exp2(s[n][i] * scale - now.lse[i / 2]);
      }
      wgmma_wait<0>();
      pin(dp);
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) s[n][i] *= dp[n][i] - now.delta[i / 2];
      }
      const bool whole = begin[0] <= key0 && begin[1] <= key0 && end[0] >= key0 + kKeys && end[1] >= key0 + kKeys;
      if (!whole) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int first = begin[i] - key0 - lane % 4 * 2, last = end[i] - key0 - lane % 4 * 2;
#pragma unroll
          for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
            for (int c = 0; c < 2; ++c) {
              if (n * 8 + c < first || n * 8 + c >= last) s[n][i * 2 + c] = 0;
            }
          }
        }
      }
      unsigned d_scores[kKeys / 16][4];
      pack(d_scores, s);
      pin(dq);
      wgmma_fence();
      const unsigned keys = by_rows<kKeys>(m.k[turn.stage]);
#pragma unroll
      for (int j = 0; j < kKeys / 16; ++j) wgmma<true>(dq, d_scores[j], keys + row_step(j * 16), true);
      wgmma_commit();
      wgmma_wait<0>();
      pin(dq);
      if (threadIdx.x % 128 == 0) arrive(m.empty[turn.stage]);
      turn.next();
    }
    if (threadIdx.x % 128 == 0) arrive(m.d_o_empty[head_turn.stage]);
    head_turn.next();
  }
  write_accumulators(p.a.dq, q_head, row0 + warpgroup * 64, p.a.queries, static_cast<int>(p.a.dim), dq, p.a.scale,
                     false);
}

template <class U, int D>
__global__ void __launch_bounds__(kThreads, 1) kernel([[maybe_unused]] const __grid_constant__ Args<U> p) {
#ifdef RATTAN_HOPPER_CODE
  extern __shared__ uint8_t memory[];
  auto& m = *reinterpret_cast<Memory<D>*>((reinterpret_cast<uintptr_t>(memory) + 1023) / 1024 * 1024);
  const int64_t row0 = int64_t{gridDim.x - 1 - blockIdx.x} * kRows;
  if (threadIdx.x == 0) {
    init_barrier(m.q_full, 1);
    for (int s = 0; s < 2; ++s) {
      init_barrier(m.d_o_full[s], 1);
      init_barrier(m.d_o_empty[s], 2);
    }
    for (int s = 0; s < kStages; ++s) {
      init_barrier(m.raw[s], 1);
      init_barrier(m.full[s], 1);
      init_barrier(m.empty[s], 2);
    }
    fence_barriers();
    arrive_expecting(m.q_full, kRows * D * 2);
    copy_tile<kRows, D>(m.q, p.q, m.q_full, blockIdx.y, static_cast<int>(row0));
  }
  m.span.load(p.a.begin, p.a.end, row0, p.a.queries);
  if (threadIdx.x < 128) {
    keep_registers<40>();
    if (threadIdx.x < 32) {
      produce<U, D>(p, m, row0, blockIdx.y);
    } else if (threadIdx.x < 64) {
      clean_keys(p, m, blockIdx.y);
    }
  } else {
    take_registers<232>();
    consume<U, D>(p, m, row0, blockIdx.y);
  }
#endif
}

template <class U, int D>
void launch(const IntervalBackward<bf16, U>& a, cudaStream_t stream) {
  const Args<U> p{a, tensor_map(a.q, a.queries, a.q_heads, a.dim, kRows),
                  tensor_map(a.d_o, a.queries, a.heads, a.dim, kRows),
                  tensor_map(a.k, a.keys, a.kv_heads, a.dim, kKeys), tensor_map(a.v, a.keys, a.kv_heads, a.dim, kKeys)};
  constexpr int64_t bytes = sizeof(Memory<D>) + 1024;
  allow_shared_memory(reinterpret_cast<const void*>(kernel<U, D>), bytes, "attention_backward (queries)");
  const dim3 grid(static_cast<unsigned>(blocks_for(a.queries, kRows)), static_cast<unsigned>(a.q_heads));
  kernel<U, D><<<grid, kThreads, bytes, stream>>>(p);
  check_launch("attention_backward (queries, Hopper)");
}

}  // namespace interval_query_hopper_file

template <class U>
void interval_query_hopper(const IntervalBackward<bf16, U>& a, void* stream_pointer) {
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  if (a.dim <= 64) return interval_query_hopper_file::launch<U, 64>(a, stream);
  interval_query_hopper_file::launch<U, 128>(a, stream);
}
template void interval_query_hopper(const IntervalBackward<bf16, bf16>& a, void* stream);
template void interval_query_hopper(const IntervalBackward<bf16, float>& a, void* stream);

}  // namespace rattan::kernels::cuda
