// Interval attention forward for Hopper: one block a tile of 128 queries and a query head; it goes through the heads
// that share those queries. A producer warp streams blocks of keys and values through the copy engine; two
// warpgroups own 64 rows each. Results leave through the copy engine, from the memory that the rows' own entries, if
// there are any, came to. The scores of the next block are multiplied while the probabilities of this one are
// (Shah et al., FlashAttention-3, arXiv 2407.08608, section 3.2).
#include <cmath>

#include "rattan/kernels/cuda/hopper.cuh"
#include "rattan/kernels/cuda/interval_attention.h"
#include "rattan/kernels/cuda/launch.h"
#include "rattan/kernels/cuda/tensor_map.h"
#include "rattan/kernels/cuda/tile_span.cuh"

namespace rattan::kernels::cuda {

namespace interval_forward_hopper_file {

constexpr int kRows = 128, kKeys = 128, kStages = 2, kThreads = 384;

// own: the rows have entries of their own and a gate.
template <int D, bool own>
struct Memory {
  bf16 q[kRows * D];
  bf16 k[kStages][kKeys * D];
  bf16 v[kStages][kKeys * D];
  bf16 value[kRows * D];             // in: own values; out: o
  bf16 gate[own ? kRows * D : 512];  // z
  TileSpan<kRows> span;
  Barrier q_full, k_full[kStages], v_full[kStages], k_empty[kStages], v_empty[kStages], own_full, own_empty;
};

struct Args {
  IntervalForward<bf16> a;
  CUtensorMap q, k, v, value, gate, o;
};

template <int D, bool own>
__device__ void produce(const Args& p, Memory<D, own>& m, int64_t row0, int q_head) {
  const int group = static_cast<int>(p.a.heads / p.a.kv_heads);
  const bool leads = threadIdx.x == 0;
  Turn<kStages> turn;
  unsigned parity = 1;
  for (int head = q_head; head < p.a.heads; head += static_cast<int>(p.a.q_heads)) {
    auto load_block = [&](int key) {
      wait(m.k_empty[turn.stage], turn.parity ^ 1);
      if (leads) {
        arrive_expecting(m.k_full[turn.stage], kKeys * D * 2);
        copy_tile<kKeys, D>(m.k[turn.stage], p.k, m.k_full[turn.stage], head / group, key);
      }
      wait(m.v_empty[turn.stage], turn.parity ^ 1);
      if (leads) {
        arrive_expecting(m.v_full[turn.stage], kKeys * D * 2);
        copy_tile<kKeys, D>(m.v[turn.stage], p.v, m.v_full[turn.stage], head / group, key);
      }
      turn.next();
    };
    int key = m.span.next_seen(m.span.low, kKeys);
    // The memory of the own entries becomes free when the consumers are at their first block of this head.
    if (key < m.span.high) {
      load_block(key);
      key = m.span.next_seen(int64_t{key} + kKeys, kKeys);
    }
    if constexpr (own) {
      wait(m.own_empty, parity);
      parity ^= 1;
      if (leads) {
        arrive_expecting(m.own_full, 2 * kRows * D * 2);
        copy_tile<kRows, D>(m.value, p.value, m.own_full, head, static_cast<int>(row0));
        copy_tile<kRows, D>(m.gate, p.gate, m.own_full, head, static_cast<int>(row0));
      }
    }
    for (; key < m.span.high; key = m.span.next_seen(int64_t{key} + kKeys, kKeys)) load_block(key);
  }
}

// One warpgroup's 64 rows of one head.
template <int D>
struct Rows {
  float out[D / 8][4], most[2], sum[2];
  int begin[2], end[2];

  __device__ void clear_sums() {
    clear(out);
    most[0] = most[1] = -INFINITY;
    sum[0] = sum[1] = 0;
  }

  // scores -> exp2(scores - maximum), with the factor by which what was summed before shrinks.
  __device__ void exponentials(float (&s)[kKeys / 8][4], int key0, float scale, float (&shrink)[2]) {
    const bool whole = begin[0] <= key0 && begin[1] <= key0 && end[0] >= key0 + kKeys && end[1] >= key0 + kKeys;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (!whole) {
        const int first = begin[i] - key0 - threadIdx.x % 4 * 2, last = end[i] - key0 - threadIdx.x % 4 * 2;
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
          for (int c = 0; c < 2; ++c) {
            if (n * 8 + c < first || n * 8 + c >= last) s[n][i * 2 + c] = -INFINITY;
          }
        }
      }
      float top = most[i];
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) top = fmaxf(top, fmaxf(s[n][i * 2], s[n][i * 2 + 1]));
      top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 1));
      top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 2));
      const float base = top == -INFINITY ? 0.0f : top * scale;  // rows that have seen no key yet
      shrink[i] = fast_exp2(most[i] * scale - base);
      most[i] = top;
      float total = 0;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          float& x = s[n][i * 2 + c];
          x = fast_exp2(x * scale - base);
          total += x;
        }
      }
      sum[i] = sum[i] * shrink[i] + total;
    }
  }
};

template <int D>
__device__ void multiply_scores(float (&s)[kKeys / 8][4], const bf16* q, const bf16* k) {
  const unsigned a = by_channels(q), b = by_channels(k);
#pragma unroll
  for (int c = 0; c < D; c += 16) wgmma<false>(s, a + channel_step<kRows>(c), b + channel_step<kKeys>(c), c > 0);
}

template <int D>
__device__ void multiply_values(float (&out)[D / 8][4], const unsigned (&p)[kKeys / 16][4], const bf16* v) {
  const unsigned b = by_rows<kKeys>(v);
#pragma unroll
  for (int j = 0; j < kKeys / 16; ++j) wgmma<true>(out, p[j], b + row_step(j * 16), true);
}

// Two neighboring channels of a row in a tile as the copy engine lays it out.
template <int D>
__device__ unsigned& pair_at(bf16* tile, int row, int channel) {
  const int unit = channel % 64 / 8 ^ row % 8;
  return *reinterpret_cast<unsigned*>(tile + channel / 64 * 64 * kRows + row * 64 + unit * 8 + channel % 8);
}
__device__ inline float low_half(unsigned pair) { return __uint_as_float(pair << 16); }
__device__ inline float high_half(unsigned pair) { return __uint_as_float(pair & 0xffff0000u); }

// A warp's 16 rows, from shared memory. The caller has fenced.
template <int D>
__device__ void send_rows(const CUtensorMap& map, const bf16* tile, int row, int head, int64_t row0) {
#pragma unroll
  for (int c = 0; c < D; c += 64) send_box(map, tile + c * kRows + row * 64, c, head, static_cast<int>(row0) + row);
}

// Merges the own entries, if there are any, and writes o and the log-sum-exp of a warp's rows.
template <int D, bool own>
__device__ void write_rows(const Args& p, Memory<D, own>& m, Rows<D>& rows, const float (&scores)[2], int64_t row0,
                           int head, unsigned parity) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 - 4, first = warp * 16 + lane / 4;
  float factor[2], own_factor[2];
  if constexpr (own) wait(m.own_full, parity);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float& sum = rows.sum[i];
    sum += __shfl_xor_sync(kAllLanes, sum, 1);
    sum += __shfl_xor_sync(kAllLanes, sum, 2);
    factor[i] = sum > 0 ? 1.0f / sum : 0.0f;
    float lse = sum > 0 ? rows.most[i] * p.a.scale + __log2f(sum) * kLn2 : -INFINITY;
    const int64_t row = row0 + first + i * 8, pair = row * p.a.heads + head;
    if constexpr (own) {
      const float score = scores[i], top = fmaxf(lse, score);
      const float others = top > -INFINITY ? fast_exp2((lse - top) * kLog2e) : 0.0f;
      own_factor[i] = top > -INFINITY ? fast_exp2((score - top) * kLog2e) : 0.0f;
      const float total = others + own_factor[i];
      lse = total > 0 ? top + __log2f(total) * kLn2 : -INFINITY;
      factor[i] *= total > 0 ? others / total : 0.0f;
      own_factor[i] /= total > 0 ? total : 1.0f;
    }
    if (p.a.lse && lane % 4 == 0 && row < p.a.queries) p.a.lse[pair] = lse;
  }
#pragma unroll
  for (int n = 0; n < D / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      unsigned& out = pair_at<D>(m.value, first + i * 8, n * 8 + lane % 4 * 2);
      float x = rows.out[n][i * 2] * factor[i], y = rows.out[n][i * 2 + 1] * factor[i];
      if constexpr (own) {
        const unsigned gate = pair_at<D>(m.gate, first + i * 8, n * 8 + lane % 4 * 2);
        const bool none = own_factor[i] == 0;  // then the value may be anything
        x += none ? 0.0f : own_factor[i] * low_half(out);
        y += none ? 0.0f : own_factor[i] * high_half(out);
        const float z = sigmoid(low_half(gate)), w = sigmoid(high_half(gate));
        x = x == 0 ? 0.0f : x * z;
        y = y == 0 ? 0.0f : y * w;
      }
      out = pack2(x, y);
    }
  }
  fence_async();
  __syncwarp();
  if (lane == 0) {
    send_rows<D>(p.o, m.value, warp * 16, head, row0);
    commit_sent();
  }
}

// Until the copy engine has read what this warp sent for the head before, its memory may not change.
template <int D, bool own>
__device__ void finish_sending(Memory<D, own>& m) {
  if (threadIdx.x % 32 == 0) {
    wait_sent();
    if constexpr (own) arrive(m.own_empty);
  }
  __syncwarp();
}

// The scores of the own entries of a thread's two rows.
template <bool own>
__device__ void load_scores(float (&scores)[2], const Args& p, int64_t row, int head) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    scores[i] = -INFINITY;
    if (own && row + i * 8 < p.a.queries) scores[i] = p.a.own.score[(row + i * 8) * p.a.heads + head];
  }
}

template <int D, bool own>
__device__ void consume(const Args& p, Memory<D, own>& m, int64_t row0, int q_head) {
  const int warpgroup = threadIdx.x / 128 - 1, lane = threadIdx.x % 32;
  const int first = warpgroup * 64 + threadIdx.x / 32 % 4 * 16 + lane / 4;
  const bf16* q = m.q + warpgroup * 64 * 64;
  const float scale = p.a.scale * kLog2e;
  Rows<D> rows;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    rows.begin[i] = m.span.begin[first + i * 8];
    rows.end[i] = m.span.end[first + i * 8];
  }
  wait(m.q_full, 0);
  if (warpgroup == 1) arrive_threads(3, 256);  // the other one begins
  Turn<kStages> scores_turn, values_turn;
  unsigned parity = 0;
  for (int head = q_head; head < p.a.heads; head += static_cast<int>(p.a.q_heads)) {
    rows.clear_sums();
    float s[kKeys / 8][4], shrink[2], scores[2];
    load_scores<own>(scores, p, row0 + first, head);
    unsigned probabilities[kKeys / 16][4];
    int key = m.span.next_seen(m.span.low, kKeys);
    if (key >= m.span.high) {
      if (head != q_head) finish_sending(m);
    } else {
      wait(m.k_full[scores_turn.stage], scores_turn.parity);
      wgmma_fence();
      multiply_scores<D>(s, q, m.k[scores_turn.stage]);
      wgmma_commit();
      if (head != q_head) finish_sending(m);
      wgmma_wait<0>();
      pin(s);
      if (threadIdx.x % 128 == 0) arrive(m.k_empty[scores_turn.stage]);
      scores_turn.next();
      rows.exponentials(s, key, scale, shrink);
      pack(probabilities, s);
      for (int next = m.span.next_seen(int64_t{key} + kKeys, kKeys); next < m.span.high;
           next = m.span.next_seen(int64_t{next} + kKeys, kKeys)) {
        wait(m.k_full[scores_turn.stage], scores_turn.parity);
        // The warpgroups take turns, so that one multiplies while the other exponentiates.
        sync_threads(3 + warpgroup, 256);
        pin(s);
        wgmma_fence();
        multiply_scores<D>(s, q, m.k[scores_turn.stage]);
        wgmma_commit();
        wait(m.v_full[values_turn.stage], values_turn.parity);
        zero_unseen<kKeys, D>(m.span, m.v[values_turn.stage], key, warpgroup);
        pin(rows.out);
        wgmma_fence();
        multiply_values<D>(rows.out, probabilities, m.v[values_turn.stage]);
        wgmma_commit();
        arrive_threads(4 - warpgroup, 256);
        wgmma_wait<1>();
        pin(s);
        if (threadIdx.x % 128 == 0) arrive(m.k_empty[scores_turn.stage]);
        scores_turn.next();
        rows.exponentials(s, next, scale, shrink);
        wgmma_wait<0>();
        pin(rows.out);
        if (threadIdx.x % 128 == 0) arrive(m.v_empty[values_turn.stage]);
        values_turn.next();
#pragma unroll
        for (int n = 0; n < D / 8; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i) rows.out[n][i] *= shrink[i / 2];
        }
        pack(probabilities, s);
        key = next;
      }
      wait(m.v_full[values_turn.stage], values_turn.parity);
      zero_unseen<kKeys, D>(m.span, m.v[values_turn.stage], key, warpgroup);
      pin(rows.out);
      wgmma_fence();
      multiply_values<D>(rows.out, probabilities, m.v[values_turn.stage]);
      wgmma_commit();
      wgmma_wait<0>();
      pin(rows.out);
      if (threadIdx.x % 128 == 0) arrive(m.v_empty[values_turn.stage]);
      values_turn.next();
    }
    write_rows<D, own>(p, m, rows, scores, row0, head, parity);
    parity ^= 1;
  }
  finish_sending(m);
  if (warpgroup == 0) sync_threads(3, 256);
}

template <int D, bool own>
__global__ void __launch_bounds__(kThreads, 1) kernel([[maybe_unused]] const __grid_constant__ Args p) {
#ifdef RATTAN_HOPPER_CODE
  extern __shared__ uint8_t memory[];
  auto& m = *reinterpret_cast<Memory<D, own>*>((reinterpret_cast<uintptr_t>(memory) + 1023) / 1024 * 1024);
  // With causal intervals the last tiles are the slowest; they come first.
  const int64_t row0 = int64_t{gridDim.x - 1 - blockIdx.x} * kRows;
  if (threadIdx.x == 0) {
    init_barrier(m.q_full, 1);
    for (int s = 0; s < kStages; ++s) {
      init_barrier(m.k_full[s], 1);
      init_barrier(m.v_full[s], 1);
      init_barrier(m.k_empty[s], 2);
      init_barrier(m.v_empty[s], 2);
    }
    init_barrier(m.own_full, 1);
    init_barrier(m.own_empty, 8);
    fence_barriers();
    arrive_expecting(m.q_full, kRows * D * 2);
    copy_tile<kRows, D>(m.q, p.q, m.q_full, blockIdx.y, static_cast<int>(row0));
  }
  m.span.load(p.a.begin, p.a.end, row0, p.a.queries);
  if (threadIdx.x < 128) {
    keep_registers<24>();
    if (threadIdx.x < 32) produce<D, own>(p, m, row0, blockIdx.y);
  } else {
    take_registers<240>();
    consume<D, own>(p, m, row0, blockIdx.y);
  }
#endif
}

template <class T>
HeadsRef<const T> constant(const HeadsRef<T>& t) {
  return {t.data, t.row, t.head};
}

template <int D, bool own>
void launch(const IntervalForward<bf16>& a, cudaStream_t stream) {
  Args p{};
  p.a = a;
  p.q = tensor_map(a.q, a.queries, a.q_heads, a.dim, kRows);
  p.k = tensor_map(a.k, a.keys, a.kv_heads, a.dim, kKeys);
  p.v = tensor_map(a.v, a.keys, a.kv_heads, a.dim, kKeys);
  p.o = tensor_map(constant(a.o), a.queries, a.heads, a.dim, 16);
  if (own) {
    p.value = tensor_map(a.own.value, a.queries, a.heads, a.dim, kRows);
    p.gate = tensor_map(a.own.gate, a.queries, a.heads, a.dim, kRows);
  }
  constexpr int64_t bytes = sizeof(Memory<D, own>) + 1024;
  static_assert(bytes <= 227 * 1024);
  allow_shared_memory(reinterpret_cast<const void*>(kernel<D, own>), bytes, "attention_forward");
  const dim3 grid(static_cast<unsigned>(blocks_for(a.queries, kRows)), static_cast<unsigned>(a.q_heads));
  kernel<D, own><<<grid, kThreads, bytes, stream>>>(p);
  check_launch("attention_forward (Hopper)");
}

}  // namespace interval_forward_hopper_file

void interval_attention_forward_hopper(const IntervalForward<bf16>& a, void* stream_pointer) {
  using namespace interval_forward_hopper_file;
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  const bool own = a.own.score != nullptr;
  if (a.dim <= 64) return own ? launch<64, true>(a, stream) : launch<64, false>(a, stream);
  own ? launch<128, true>(a, stream) : launch<128, false>(a, stream);
}

}  // namespace rattan::kernels::cuda
