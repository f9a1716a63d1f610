// The gradient of the queries, for Hopper: one block a tile of 128 queries and a query head; it goes through the heads
// that share those queries, so that their sum stays in registers. Of its first warpgroup one warp streams blocks of
// keys and values, one the gradients of the outputs of each head, and one zeroes what no row sees; two warpgroups own
// 64 rows each. Where outputs are gated, those gradients are made here of the gradients of the gated outputs.
#include <type_traits>

#include "rattan/kernels/cuda/hopper.cuh"
#include "rattan/kernels/cuda/interval_backward_hopper.cuh"
#include "rattan/kernels/cuda/launch.h"
#include "rattan/kernels/cuda/output_gate.cuh"
#include "rattan/kernels/cuda/tensor_map.h"
#include "rattan/kernels/cuda/tile_span.cuh"

namespace rattan::kernels::cuda {

namespace interval_query_hopper_file {

constexpr int kRows = 128, kHalf = 64, kKeys = 64, kThreads = 384;

// Five slots hold blocks of keys and values, and gradients of the outputs of a head. Gated outputs and their gates need
// room as well; then a slot is taken from the former where a tile sees few keys, and from the latter elsewhere.
template <int D, bool gated>
struct Memory {
  static constexpr int slots = gated ? 4 : 5, few_keys = 512;
  bf16 q[kRows * D];
  bf16 slot[slots][kRows * D];
  bf16 gate[gated ? kRows * D : 512], out[gated ? kRows * D : 512];
  TileSpan<kRows> span;
  Barrier q_full, raw[3], full[3], empty[3];
  Barrier d_o_full[2][2], d_o_empty[2][2], gate_empty[2];  // by warpgroup first

  __device__ int d_o_stages() const { return !gated || span.high - span.low <= few_keys ? 2 : 1; }
  __device__ int key_stages() const { return slots - d_o_stages(); }
  __device__ bf16* k(int stage) { return slot[stage]; }
  __device__ bf16* v(int stage) { return slot[stage] + kKeys * D; }
  __device__ bf16* d_o(int stage, int warpgroup) { return slot[slots - 1 - stage] + warpgroup * kHalf * D; }
};

template <class U>
struct Args {
  IntervalBackward<bf16, U> a;
  CUtensorMap q, d_o, k, v;            // d_o: of the gated outputs, if they are
  CUtensorMap gate, out, d_y, d_gate;  // gated alone
};

// Stage and parity in a ring of `stages`.
struct Ring {
  int stages, stage = 0;
  unsigned parity = 0;
  __device__ void next() {
    if (++stage < stages) return;
    stage = 0;
    parity ^= 1;
  }
};

// A warp.
template <class U, int D, bool gated>
__device__ void stream_keys(const Args<U>& p, Memory<D, gated>& m, int q_head) {
  const SeenBlocks<kKeys, kRows> blocks(m.span);
  const int group = static_cast<int>(p.a.heads) / static_cast<int>(p.a.kv_heads);
  Ring ring{m.key_stages()};
  for (int head = q_head; head < p.a.heads; head += static_cast<int>(p.a.q_heads)) {
    const int kv_head = head / group;
    for (int key = blocks.first(); key < blocks.end(); key = blocks.after(key), ring.next()) {
      wait(m.empty[ring.stage], ring.parity ^ 1);
      if (threadIdx.x % 32 != 0) continue;
      Barrier& full = blocks.all_seen(key) ? m.full[ring.stage] : m.raw[ring.stage];
      arrive_expecting(full, 2 * kKeys * D * 2);
      copy_tile<kKeys, D>(m.k(ring.stage), p.k, full, kv_head, key);
      copy_tile<kKeys, D>(m.v(ring.stage), p.v, full, kv_head, key);
    }
  }
}

// A warp: zeroes keys that no row sees.
template <class U, int D, bool gated>
__device__ void clean_keys(const Args<U>& p, Memory<D, gated>& m, int q_head) {
  const SeenBlocks<kKeys, kRows> blocks(m.span);
  Ring ring{m.key_stages()};
  unsigned parities = 0;
  for (int head = q_head; head < p.a.heads; head += static_cast<int>(p.a.q_heads)) {
    for (int key = blocks.first(); key < blocks.end(); key = blocks.after(key), ring.next()) {
      if (blocks.all_seen(key)) continue;
      clean_block<kKeys, D>(m.span, m.k(ring.stage), key, m.raw[ring.stage], parities >> ring.stage & 1,
                            m.full[ring.stage]);
      parities ^= 1u << ring.stage;
    }
  }
}

// A warp.
template <class U, int D, bool gated>
__device__ void stream_gradients(const Args<U>& p, Memory<D, gated>& m, int row0, int q_head) {
  const bool leads = threadIdx.x % 32 == 0;
  Ring ring{m.d_o_stages()};
  unsigned gate_parity = 1;
  for (int head = q_head; head < p.a.heads; head += static_cast<int>(p.a.q_heads)) {
#pragma unroll 1
    for (int half = 0; half < 2; ++half) {
      wait(m.d_o_empty[half][ring.stage], ring.parity ^ 1);
      if (!leads) continue;
      Barrier& full = m.d_o_full[half][ring.stage];
      arrive_expecting(full, (gated ? 3 : 1) * kHalf * D * 2);
      copy_tile<kHalf, D>(m.d_o(ring.stage, half), p.d_o, full, head, row0 + half * kHalf);
    }
#pragma unroll 1
    for (int half = 0; half < 2 && gated; ++half) {
      wait(m.gate_empty[half], gate_parity);
      if (!leads) continue;
      Barrier& full = m.d_o_full[half][ring.stage];
      copy_tile<kHalf, D>(m.gate + half * kHalf * D, p.gate, full, head, row0 + half * kHalf);
      copy_tile<kHalf, D>(m.out + half * kHalf * D, p.out, full, head, row0 + half * kHalf);
    }
    gate_parity ^= 1;
    ring.next();
  }
}

// rows: 64 of a tile of R rows.
template <int R, int D>
__device__ void multiply_scores(float (&s)[kKeys / 8][4], const bf16* rows, const bf16* keys) {
  const unsigned a = by_channels(rows), b = by_channels(keys);
#pragma unroll
  for (int c = 0; c < D; c += 16) wgmma<false>(s, a + channel_step<R>(c), b + channel_step<kKeys>(c), c > 0);
}

// The statistics of the two rows of a thread; rows that see nothing have none.
struct Statistics {
  float lse[2], delta[2];
  template <class U>
  __device__ void load(const Args<U>& p, const bool (&sees)[2], int64_t row, int head, bool with_delta) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int64_t at = (row + i * 8) * p.a.heads + head;
      lse[i] = sees[i] && head < p.a.heads ? p.a.lse[at] * kLog2e : 0.0f;
      if (with_delta) delta[i] = sees[i] && head < p.a.heads ? p.a.delta[at] : 0.0f;
    }
  }
};

// A warpgroup.
template <class U, int D, bool gated>
class Consumer {
 public:
  __device__ Consumer(const Args<U>& p, Memory<D, gated>& m, int64_t row0, int q_head)
      : p_(p),
        m_(m),
        blocks_(m.span),
        warpgroup_(threadIdx.x / 128 - 1),
        first_(threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4),
        row_(row0 + warpgroup_ * kHalf + first_),
        q_head_(q_head),
        ring_{m.key_stages()},
        d_o_ring_{m.d_o_stages()} {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      begin_[i] = m.span.begin[warpgroup_ * kHalf + first_ + i * 8];
      end_[i] = m.span.end[warpgroup_ * kHalf + first_ + i * 8];
      sees_[i] = begin_[i] < end_[i];
      // Rows of padding have intervals that begin before all keys.
      real_[i] = gated && row_ + i * 8 < p.a.queries && p.a.begin[row_ + i * 8] >= 0;
    }
  }

  __device__ void run() {
    const int step = static_cast<int>(p_.a.q_heads);
    clear(dq_);
    Statistics next;
    next.load(p_, sees_, row_, q_head_, !gated);
    wait(m_.q_full, 0);
    for (int head = q_head_; head < p_.a.heads; head += step) {
      now_ = next;
      next.load(p_, sees_, row_, head + step, !gated);
      wait(m_.d_o_full[warpgroup_][d_o_ring_.stage], d_o_ring_.parity);
      if constexpr (gated) make_gradients(head);
      for (int key = blocks_.first(); key < blocks_.end(); key = blocks_.after(key)) add_block(key);
      if (gated && sends_) finish_sending();
      if (gated ? threadIdx.x % 32 == 0 : threadIdx.x % 128 == 0) arrive(m_.d_o_empty[warpgroup_][d_o_ring_.stage]);
      d_o_ring_.next();
    }
    write_accumulators(p_.a.dq, q_head_, row_ - first_, p_.a.queries, static_cast<int>(p_.a.dim), dq_, p_.a.scale,
                       false);
  }

 private:
  // d_y, in place of the gated outputs' gradients, and what else is to be written of it.
  __device__ void make_gradients(int head) {
    bf16 *d_y = m_.d_o(d_o_ring_.stage, warpgroup_), *gate = m_.gate + warpgroup_ * kHalf * D;
    gate_rows<D>(d_y, gate, m_.out + warpgroup_ * kHalf * D, first_, real_, now_.delta);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (threadIdx.x % 4 == 0 && row_ + i * 8 < p_.a.queries)
        p_.a.gated.delta[(row_ + i * 8) * p_.a.heads + head] = now_.delta[i];
    }
    // first_ and row_ of lane 0, which sends, are the warp's.
    send_rows<D>(p_.d_y, d_y, first_, head, row_);
    send_rows<D>(p_.d_gate, gate, first_, head, row_);
    sends_ = true;
    sync_threads(1 + warpgroup_, 128);  // d_y is an operand of the whole warpgroup
  }
  // When the copy engine has read what this warp sent, the next head's gates may come.
  __device__ void finish_sending() {
    if (threadIdx.x % 32 == 0) {
      wait_sent();
      arrive(m_.gate_empty[warpgroup_]);
    }
    __syncwarp();
    sends_ = false;
  }

  __device__ void add_block(int key0) {
    float s[kKeys / 8][4], dp[kKeys / 8][4];
    const float scale = p_.a.scale * kLog2e;
    wait(m_.full[ring_.stage], ring_.parity);
    const bf16 *k = m_.k(ring_.stage), *v = m_.v(ring_.stage);
    wgmma_fence();
    multiply_scores<kRows, D>(s, m_.q + warpgroup_ * kHalf * 64, k);
    wgmma_commit();
    multiply_scores<kHalf, D>(dp, m_.d_o(d_o_ring_.stage, warpgroup_), v);
    wgmma_commit();
    if (gated && sends_) finish_sending();
    wgmma_wait<1>();
    pin(s);
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) s[n][i] = fast_exp2(s[n][i] * scale - now_.lse[i / 2]);
    }
    wgmma_wait<0>();
    pin(dp);
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) s[n][i] *= dp[n][i] - now_.delta[i / 2];
    }
    const bool whole = begin_[0] <= key0 && begin_[1] <= key0 && end_[0] >= key0 + kKeys && end_[1] >= key0 + kKeys;
    if (!whole) hide(s, key0);
    unsigned d_scores[kKeys / 16][4];
    pack(d_scores, s);
    pin(dq_);
    wgmma_fence();
    const unsigned keys = by_rows<kKeys>(k);
#pragma unroll
    for (int j = 0; j < kKeys / 16; ++j) wgmma<true>(dq_, d_scores[j], keys + row_step(j * 16), true);
    wgmma_commit();
    wgmma_wait<0>();
    pin(dq_);
    if (threadIdx.x % 128 == 0) arrive(m_.empty[ring_.stage]);
    ring_.next();
  }

  // Zeroes what this thread's rows do not see.
  __device__ void hide(float (&s)[kKeys / 8][4], int key0) const {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int first = begin_[i] - key0 - threadIdx.x % 4 * 2, last = end_[i] - key0 - threadIdx.x % 4 * 2;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          if (n * 8 + c < first || n * 8 + c >= last) s[n][i * 2 + c] = 0;
        }
      }
    }
  }

  const Args<U>& p_;
  Memory<D, gated>& m_;
  const SeenBlocks<kKeys, kRows> blocks_;
  const int warpgroup_, first_;  // first_: of this thread's rows in the warpgroup's half of the tile
  const int64_t row_;            // the same of all queries
  const int q_head_;
  Ring ring_, d_o_ring_;
  int begin_[2], end_[2];
  bool sees_[2], real_[2], sends_ = false;
  Statistics now_;
  float dq_[D / 8][4];
};

template <int D, bool gated>
__device__ void init_barriers(Memory<D, gated>& m) {
  init_barrier(m.q_full, 1);
  for (int s = 0; s < 3; ++s) init_barrier(m.raw[s], 1), init_barrier(m.full[s], 1), init_barrier(m.empty[s], 2);
  for (int half = 0; half < 2; ++half) {
    for (int s = 0; s < 2; ++s) {
      init_barrier(m.d_o_full[half][s], 1);
      init_barrier(m.d_o_empty[half][s], gated ? 4 : 1);
    }
    init_barrier(m.gate_empty[half], 4);
  }
  fence_barriers();
}

template <class U, int D, bool gated>
__global__ void __launch_bounds__(kThreads, 1) kernel([[maybe_unused]] const __grid_constant__ Args<U> p) {
#ifdef RATTAN_HOPPER_CODE
  extern __shared__ uint8_t memory[];
  auto& m = aligned_memory<Memory<D, gated>>(memory);
  const int64_t row0 = int64_t{gridDim.x - 1 - blockIdx.x} * kRows;
  const int q_head = static_cast<int>(blockIdx.y), warp = static_cast<int>(threadIdx.x) / 32;
  if (threadIdx.x == 0) {
    init_barriers(m);
    arrive_expecting(m.q_full, kRows * D * 2);
    copy_tile<kRows, D>(m.q, p.q, m.q_full, q_head, static_cast<int>(row0));
  }
  m.span.load(p.a.begin, p.a.end, row0, p.a.queries);
  if (gated && p.a.joint && *p.a.joint) {  // the scores are left to the joint pass: no block of keys is seen here
    if (threadIdx.x == 0) m.span.low = m.span.high = 0;
    __syncthreads();
  }
  if (warp < 4) {
    keep_registers<40>();
    if (warp == 0) stream_keys(p, m, q_head);
    if (warp == 1) stream_gradients(p, m, static_cast<int>(row0), q_head);
    if (warp == 2) clean_keys(p, m, q_head);
  } else {
    take_registers<232>();
    Consumer<U, D, gated>(p, m, row0, q_head).run();
  }
#endif
}

template <class T>
HeadsRef<const T> constant(const HeadsRef<T>& t) {
  return {t.data, t.row, t.head};
}

template <class U, int D, bool gated>
void launch(const IntervalBackward<bf16, U>& a, cudaStream_t stream) {
  Args<U> p{};
  p.a = a;
  p.q = tensor_map(a.q, a.queries, a.q_heads, a.dim, kRows);
  p.k = tensor_map(a.k, a.keys, a.kv_heads, a.dim, kKeys);
  p.v = tensor_map(a.v, a.keys, a.kv_heads, a.dim, kKeys);
  p.d_o = tensor_map(gated ? a.gated.d_out : a.d_o, a.queries, a.heads, a.dim, kHalf);
  if (gated) {
    p.gate = tensor_map(a.gated.gate, a.queries, a.heads, a.dim, kHalf);
    p.out = tensor_map(a.gated.out, a.queries, a.heads, a.dim, kHalf);
    p.d_y = tensor_map(constant(a.gated.d_y), a.queries, a.heads, a.dim, 16);
    p.d_gate = tensor_map(constant(a.gated.d_gate), a.queries, a.heads, a.dim, 16);
  }
  constexpr int64_t bytes = sizeof(Memory<D, gated>) + 1024;
  static_assert(bytes <= 227 * 1024);
  allow_shared_memory(reinterpret_cast<const void*>(kernel<U, D, gated>), bytes, "attention_backward (queries)");
  const dim3 grid(static_cast<unsigned>(blocks_for(a.queries, kRows)), static_cast<unsigned>(a.q_heads));
  kernel<U, D, gated><<<grid, kThreads, bytes, stream>>>(p);
  check_launch("attention_backward (queries, Hopper)");
}

}  // namespace interval_query_hopper_file

template <class U>
void interval_query_hopper(const IntervalBackward<bf16, U>& a, void* stream_pointer) {
  using namespace interval_query_hopper_file;
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  if constexpr (std::is_same_v<U, float>) {  // RAT's
    if (a.gated.delta) return a.dim <= 64 ? launch<U, 64, true>(a, stream) : launch<U, 128, true>(a, stream);
  }
  a.dim <= 64 ? launch<U, 64, false>(a, stream) : launch<U, 128, false>(a, stream);
}
template void interval_query_hopper(const IntervalBackward<bf16, bf16>& a, void* stream);
template void interval_query_hopper(const IntervalBackward<bf16, float>& a, void* stream);

}  // namespace rattan::kernels::cuda
