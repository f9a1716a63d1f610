// Interval attention forward for Hopper: one block a tile of 128 queries and some heads, one after the other. Of its
// first warpgroup one warp streams queries and blocks of keys and values through the copy engine, one the rows' own
// entries, and one zeroes what no row sees; two warpgroups own 64 rows each. Results leave through the copy engine,
// from the memory that the own entries, if there are any, came to. The scores of the next block are multiplied while
// the probabilities of this one are (Shah et al., FlashAttention-3, arXiv 2407.08608, section 3.2).
#include <algorithm>

#include "rattan/kernels/cuda/interval_attention.h"
#include "rattan/kernels/cuda/interval_forward_hopper.cuh"
#include "rattan/kernels/cuda/launch.h"
#include "rattan/kernels/cuda/tensor_map.h"
#include "rattan/kernels/cuda/tile_span.cuh"

namespace rattan::kernels::cuda {

namespace interval_forward_hopper_file {

constexpr int kRows = 128, kHalf = 64, kStages = 2, kThreads = 384;

// Shared memory. own: the rows have entries of their own and a gate.
template <int D, bool own>
struct Memory {
  // Up to so many keys a tile takes blocks of 64, which leaves room for own entries of two heads at once.
  static constexpr int few_keys = own ? 128 : 0;
  static constexpr int queries = own ? 1 : 2;
  static constexpr int unit = (own ? 2 : 1) * kHalf * D;  // in: own values and gate of 64 rows; out: o
  bf16 q[queries][kRows * D];
  bf16 pool[4 * 128 * D + 2 * unit];  // units, keys, values
  TileSpan<kRows> span;
  Barrier q_full[queries], q_empty[queries];
  Barrier k_full[kStages], k_empty[kStages], v_full[kStages], v_empty[kStages], v_raw[kStages];
  Barrier own_full[4], own_empty[4];
};

// The parts of the pool for blocks of `keys` keys.
template <int D, bool own, int keys>
struct Pool {
  static constexpr int units = keys == 64 ? 2 : 1;  // of a warpgroup
  bf16* data;
  __device__ bf16* value(int warpgroup, int turn) const { return data + (turn * 2 + warpgroup) * Memory<D, own>::unit; }
  __device__ bf16* gate(int warpgroup, int turn) const { return value(warpgroup, turn) + kHalf * D; }
  __device__ bf16* k(int stage) const { return data + 2 * units * Memory<D, own>::unit + stage * 2 * keys * D; }
  __device__ bf16* v(int stage) const { return k(stage) + keys * D; }
};

struct Args {
  IntervalForward<bf16> a;
  CUtensorMap q, k, v, value, gate, o;
  int heads;  // a block
};

// The heads of this block, [first, last) in steps: those that share a query, or some that have their own.
struct Heads {
  int first, last, step;
  int query;  // the first one's
  bool share;
  __device__ explicit Heads(const Args& p) {
    const int heads = static_cast<int>(p.a.heads), q_heads = static_cast<int>(p.a.q_heads), y = blockIdx.y;
    share = q_heads < heads;
    step = share ? q_heads : 1;
    first = y % step + y / step * step * p.heads;
    last = min(first + step * p.heads, heads);
    query = share ? y % step : first;
  }
};

template <int D, bool own>
__device__ void load_query(const Args& p, Memory<D, own>& m, int64_t row0, int head, int stage) {
  arrive_expecting(m.q_full[stage], kRows * D * 2);
  copy_tile<kRows, D>(m.q[stage], p.q, m.q_full[stage], head, static_cast<int>(row0));
}

// A warp.
template <int D, bool own, int keys>
__device__ void stream_keys(const Args& p, Memory<D, own>& m, int64_t row0) {
  const Pool<D, own, keys> pool{m.pool};
  const Heads heads(p);
  const SeenBlocks<keys, kRows> blocks(m.span);
  const int group = static_cast<int>(p.a.heads) / static_cast<int>(p.a.kv_heads);
  const bool leads = threadIdx.x % 32 == 0;
  Turn<Memory<D, own>::queries> query;
  Turn<kStages> turn;
  for (int head = heads.first; head < heads.last; head += heads.step) {
    if (head != heads.first && !heads.share) {  // the first came before
      query.next();
      wait(m.q_empty[query.stage], query.parity ^ 1);
      if (leads) load_query(p, m, row0, head, query.stage);
    }
    const int kv_head = head / group;
    for (int key = blocks.first(); key < blocks.end(); key = blocks.after(key)) {
      wait(m.k_empty[turn.stage], turn.parity ^ 1);
      if (leads) {
        Barrier& full = m.k_full[turn.stage];
        arrive_expecting(full, keys * D * 2);
        copy_tile<keys, D, 64>(pool.k(turn.stage), p.k, full, kv_head, key);
      }
      wait(m.v_empty[turn.stage], turn.parity ^ 1);
      if (leads) {
        Barrier& full = blocks.all_seen(key) ? m.v_full[turn.stage] : m.v_raw[turn.stage];
        arrive_expecting(full, keys * D * 2);
        copy_tile<keys, D, 64>(pool.v(turn.stage), p.v, full, kv_head, key);
      }
      turn.next();
    }
  }
}

// A warp: zeroes values that no row sees.
template <int D, bool own, int keys>
__device__ void clean_values(const Args& p, Memory<D, own>& m) {
  const Pool<D, own, keys> pool{m.pool};
  const SeenBlocks<keys, kRows> blocks(m.span);
  const Heads heads(p);
  Turn<kStages> turn;
  unsigned parities = 0;
  for (int head = heads.first; head < heads.last; head += heads.step) {
    for (int key = blocks.first(); key < blocks.end(); key = blocks.after(key), turn.next()) {
      if (blocks.all_seen(key)) continue;
      clean_block<keys, D>(m.span, pool.v(turn.stage), key, m.v_raw[turn.stage], parities >> turn.stage & 1,
                           m.v_full[turn.stage]);
      parities ^= 1u << turn.stage;
    }
  }
}

template <int D, int keys>
__device__ void load_own(const Args& p, Memory<D, true>& m, int64_t row0, int head, int warpgroup, int turn) {
  const Pool<D, true, keys> pool{m.pool};
  Barrier& full = m.own_full[turn * 2 + warpgroup];
  const int row = static_cast<int>(row0) + warpgroup * kHalf;
  arrive_expecting(full, 2 * kHalf * D * 2);
  copy_tile<kHalf, D>(pool.value(warpgroup, turn), p.value, full, head, row);
  copy_tile<kHalf, D>(pool.gate(warpgroup, turn), p.gate, full, head, row);
}

// A warp.
template <int D, int keys>
__device__ void stream_own(const Args& p, Memory<D, true>& m, int64_t row0) {
  const Heads heads(p);
  Turn<Pool<D, true, keys>::units> turn;
  for (int head = heads.first + heads.step; head < heads.last; head += heads.step) {  // the first head's came before
    turn.next();
    for (int warpgroup = 0; warpgroup < 2; ++warpgroup) {
      wait(m.own_empty[turn.stage * 2 + warpgroup], turn.parity ^ 1);
      if (threadIdx.x % 32 == 0) load_own<D, keys>(p, m, row0, head, warpgroup, turn.stage);
    }
  }
}

template <int D, int N>
__device__ void multiply_scores(float (&s)[N][4], const bf16* q, const bf16* k) {
  const unsigned a = by_channels(q), b = by_channels(k);
#pragma unroll
  for (int c = 0; c < D; c += 16) wgmma<false>(s, a + channel_step<kRows>(c), b + channel_step<N * 8>(c), c > 0);
}

template <int D, int N>
__device__ void multiply_values(float (&out)[D / 8][4], const unsigned (&p)[N][4], const bf16* v, bool add) {
  const unsigned b = by_rows<N * 16>(v);
#pragma unroll
  for (int j = 0; j < N; ++j) wgmma<true>(out, p[j], b + row_step(j * 16), add || j > 0);
}

// A warpgroup.
template <int D, bool own, int keys>
class Consumer {
 public:
  __device__ Consumer(const Args& p, Memory<D, own>& m, int64_t row0)
      : p_(p),
        m_(m),
        pool_{m.pool},
        blocks_(m.span),
        warpgroup_(threadIdx.x / 128 - 1),
        first_(threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4),
        row_(row0 + warpgroup_ * kHalf + first_) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      rows_.begin[i] = m.span.begin[warpgroup_ * kHalf + first_ + i * 8];
      rows_.end[i] = m.span.end[warpgroup_ * kHalf + first_ + i * 8];
    }
    rows_.find_common();
  }

  __device__ void run() {
    wait(m_.q_full[0], 0);
    blocks_.first() < blocks_.end() ? see_blocks() : see_nothing();
    finish_sending();
  }

 private:
  __device__ static bool leads() { return threadIdx.x % 128 == 0; }

  __device__ void see_nothing() {
    const Heads heads(p_);
    for (int head = heads.first; head < heads.last; head += heads.step) {
      if (head != heads.first) finish_sending();
      float scores[2], lse[2];
      load_scores(scores, head);
      rows_.see_nothing();
      const RowFactors factors = rows_.template factors<own>(scores, lse);
      store_lse(lse, head);
      if (!heads.share) next_query(head + heads.step < heads.last);
      write(head, factors);
    }
  }

  __device__ void see_blocks() {
    const Heads heads(p_);
    wait(m_.k_full[k_turn_.stage], k_turn_.parity);
    start_scores();
    wgmma_wait<0>();
    end_scores();
    for (int head = heads.first; head < heads.last; head += heads.step) {
      const bool more = head + heads.step < heads.last;
      float scores[2], lse[2];
      load_scores(scores, head);
      const bool add = add_blocks(head != heads.first);
      const RowFactors factors = rows_.template factors<own>(scores, lse);
      store_lse(lse, head);
      start_values(add);
      if (!heads.share) next_query(more);
      // The next head's first scores are multiplied while this one's rows are written. After the last head they are
      // of whatever is there, and of no use: products may not depend on a condition.
      if (more) wait(m_.k_full[k_turn_.stage], k_turn_.parity);
      start_scores();
      wgmma_wait<1>();
      end_values();
      write(head, factors);
      wgmma_wait<0>();
      if (more) end_scores();
    }
  }

  // The query of a head is done with; waits for the next one's, if there are `more`.
  __device__ void next_query(bool more) {
    if (leads()) arrive(m_.q_empty[query_.stage]);
    query_.next();
    if (more) wait(m_.q_full[query_.stage], query_.parity);
  }

  // Multiplies the scores of the next block, which are there when the products are waited for.
  __device__ void start_scores() {
    pin(scores_);
    wgmma_fence();
    multiply_scores<D>(scores_, m_.q[query_.stage] + warpgroup_ * kHalf * 64, pool_.k(k_turn_.stage));
    wgmma_commit();
  }
  __device__ void end_scores() {
    pin(scores_);
    if (leads()) arrive(m_.k_empty[k_turn_.stage]);
    k_turn_.next();
  }
  __device__ void start_values(bool add) {
    wait(m_.v_full[v_turn_.stage], v_turn_.parity);
    pin(rows_.out);
    wgmma_fence();
    multiply_values<D>(rows_.out, probabilities_, pool_.v(v_turn_.stage), add);
    wgmma_commit();
  }
  __device__ void end_values() {
    pin(rows_.out);
    if (leads()) arrive(m_.v_empty[v_turn_.stage]);
    v_turn_.next();
  }

  // Adds all blocks, but for the products with the last one's values: these are to be added to `out`, or, if it returns
  // false, to be all. The scores of the first are there.
  __device__ bool add_blocks(bool has_sent) {
    const float scale = p_.a.scale * kLog2e;
    float shrink[2];
    int key = blocks_.first(), next = blocks_.after(key);
    rows_.template exponentials<true>(scores_, key, scale, shrink);
    pack(probabilities_, scores_);
    if (has_sent) finish_sending();
    bool add = false;
    if (next < blocks_.end()) wait(m_.k_full[k_turn_.stage], k_turn_.parity);
    while (next < blocks_.end()) {
      start_scores();
      start_values(add);
      add = true;
      key = next;
      next = blocks_.after(key);
      wgmma_wait<1>();
      end_scores();
      const bool moved = rows_.template exponentials<false>(scores_, key, scale, shrink);
      // All of that while the values are multiplied: nothing moves beyond this loop.
      if (next < blocks_.end()) wait(m_.k_full[k_turn_.stage], k_turn_.parity);
      wgmma_wait<0>();
      end_values();
      if (moved) rows_.scale_out(shrink);
      pack(probabilities_, scores_);
    }
    return add;
  }

  // The scores of the own entries of this thread's rows.
  __device__ void load_scores(float (&scores)[2], int head) const {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      scores[i] = -INFINITY;
      if (own && row_ + i * 8 < p_.a.queries) scores[i] = p_.a.own.score[(row_ + i * 8) * p_.a.heads + head];
    }
  }

  __device__ void store_lse(const float (&lse)[2], int head) const {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (p_.a.lse && threadIdx.x % 4 == 0 && row_ + i * 8 < p_.a.queries)
        p_.a.lse[(row_ + i * 8) * p_.a.heads + head] = lse[i];
    }
  }

  // Writes o, merged with the own entries.
  __device__ void write(int head, const RowFactors& factors) {
    bf16 *tile = pool_.value(warpgroup_, unit_.stage), *gate = pool_.gate(warpgroup_, unit_.stage);
    if constexpr (own) wait(m_.own_full[unit_.stage * 2 + warpgroup_], unit_.parity);
    put_rows<own, D>(tile, gate, first_, rows_.out, factors);
    // first_ and row_ of lane 0, which sends, are the warp's.
    send_rows<D>(p_.o, tile, first_, head, row_);
  }

  // Until the copy engine has read what this warp sent for the head before, that memory may not change.
  __device__ void finish_sending() {
    if (threadIdx.x % 32 == 0) {
      wait_sent();
      if constexpr (own) arrive(m_.own_empty[unit_.stage * 2 + warpgroup_]);
    }
    __syncwarp();
    unit_.next();
  }

  const Args& p_;
  Memory<D, own>& m_;
  const Pool<D, own, keys> pool_;
  const SeenBlocks<keys, kRows> blocks_;
  const int warpgroup_, first_;  // first_: of this thread's rows in the warpgroup's half of the tile
  const int64_t row_;            // the same of all queries
  SoftmaxRows<D> rows_;
  float scores_[keys / 8][4];
  unsigned probabilities_[keys / 16][4];
  Turn<Memory<D, own>::queries> query_;
  Turn<kStages> k_turn_, v_turn_;
  Turn<Pool<D, own, keys>::units> unit_;
};

template <int D, bool own>
__device__ void prepare(const Args& p, Memory<D, own>& m, int64_t row0) {
  for (int i = 0; i < Memory<D, own>::queries; ++i) init_barrier(m.q_full[i], 1), init_barrier(m.q_empty[i], 2);
  for (int s = 0; s < kStages; ++s) {
    init_barrier(m.k_full[s], 1), init_barrier(m.v_full[s], 1), init_barrier(m.v_raw[s], 1);
    init_barrier(m.k_empty[s], 2), init_barrier(m.v_empty[s], 2);
  }
  for (int i = 0; i < 4; ++i) init_barrier(m.own_full[i], 1), init_barrier(m.own_empty[i], 4);
  fence_barriers();
  const Heads heads(p);
  load_query(p, m, row0, heads.query, 0);
  if constexpr (own) {
    for (int warpgroup = 0; warpgroup < 2; ++warpgroup) load_own<D, 128>(p, m, row0, heads.first, warpgroup, 0);
  }
}

// A warp of the first warpgroup.
template <int D, bool own, int keys>
__device__ void produce(const Args& p, Memory<D, own>& m, int64_t row0) {
  switch (threadIdx.x / 32) {
    case 0:
      stream_keys<D, own, keys>(p, m, row0);
      break;
    case 1:
      if constexpr (own) stream_own<D, keys>(p, m, row0);
      break;
    case 2:
      clean_values<D, own, keys>(p, m);
      break;
  }
}

template <int D, bool own>
__global__ void __launch_bounds__(kThreads, 1) kernel([[maybe_unused]] const __grid_constant__ Args p) {
#ifdef RATTAN_HOPPER_CODE
  extern __shared__ uint8_t memory[];
  auto& m = aligned_memory<Memory<D, own>>(memory);
  // With causal intervals the last tiles are the slowest; they come first.
  const int64_t row0 = int64_t{gridDim.x - 1 - blockIdx.x} * kRows;
  if (threadIdx.x == 0) prepare(p, m, row0);
  m.span.load(p.a.begin, p.a.end, row0, p.a.queries);
  const bool few = own && m.span.high - m.span.low <= Memory<D, own>::few_keys;
  if (threadIdx.x < 128) {
    keep_registers<40>();
    if constexpr (own) {
      if (few) return produce<D, own, 64>(p, m, row0);
    }
    produce<D, own, 128>(p, m, row0);
  } else {
    take_registers<232>();
    if constexpr (own) {
      if (few) return Consumer<D, own, 64>(p, m, row0).run();
    }
    Consumer<D, own, 128>(p, m, row0).run();
  }
#endif
}

template <class T>
HeadsRef<const T> constant(const HeadsRef<T>& t) {
  return {t.data, t.row, t.head};
}

// Heads that a block takes one after the other. Of those with queries of their own several, as long as that leaves
// enough blocks for a few rounds of the device: the next one's first copies are under way while one ends. Of those that
// share their queries all, which then are read once, but fewer where the blocks would not fill the device.
int heads_a_block(const IntervalForward<bf16>& a) {
  const int64_t tiles = blocks_for(a.queries, kRows);
  if (a.q_heads < a.heads) {
    constexpr int64_t multiprocessors = 132;
    return static_cast<int>(std::clamp<int64_t>(blocks_for(tiles * a.heads, multiprocessors), 1, a.heads / a.q_heads));
  }
  constexpr int64_t enough = 528, most = 8;
  return static_cast<int>(std::clamp<int64_t>(tiles * a.heads / enough, 1, most));
}

template <int D, bool own>
void launch(const IntervalForward<bf16>& a, cudaStream_t stream) {
  Args p{};
  p.a = a;
  p.heads = heads_a_block(a);
  p.q = tensor_map(a.q, a.queries, a.q_heads, a.dim, kRows);
  p.k = tensor_map(a.k, a.keys, a.kv_heads, a.dim, 64);
  p.v = tensor_map(a.v, a.keys, a.kv_heads, a.dim, 64);
  p.o = tensor_map(constant(a.o), a.queries, a.heads, a.dim, 16);
  if (own) {
    p.value = tensor_map(a.own.value, a.queries, a.heads, a.dim, kHalf);
    p.gate = tensor_map(a.own.gate, a.queries, a.heads, a.dim, kHalf);
  }
  constexpr int64_t bytes = sizeof(Memory<D, own>) + 1024;
  static_assert(bytes <= 227 * 1024);
  allow_shared_memory(reinterpret_cast<const void*>(kernel<D, own>), bytes, "attention_forward");
  const int64_t share = a.q_heads < a.heads ? a.q_heads : 1;
  const int64_t head_blocks = share * blocks_for(a.heads / share, p.heads);
  const dim3 grid(static_cast<unsigned>(blocks_for(a.queries, kRows)), static_cast<unsigned>(head_blocks));
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
