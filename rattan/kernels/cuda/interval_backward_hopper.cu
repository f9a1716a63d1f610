// Interval attention backward for Hopper: what the passes need to know of queries and keys, and which passes run.
#include <type_traits>

#include "rattan/kernels/cuda/interval_block_hopper.cuh"
#include "rattan/kernels/cuda/launch.h"
#include "rattan/kernels/cuda/tensor_map.h"

namespace rattan::kernels::cuda {

namespace interval_backward_hopper_file {

constexpr int kKeys = kBlockKeys, kRows = kTileRows;

// One warp a tile of queries.
__global__ void tiles_kernel(const int32_t* begin, const int32_t* end, int64_t queries, QueryTile* tiles,
                             int64_t count) {
  const int64_t tile = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / 32;
  if (tile >= count) return;
  QueryTile t{0x7fffffff, 0, 0, 0x7fffffff};
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

// The tiles that may see a block of keys; one block of threads each.
constexpr int kRangeThreads = 256;
__global__ void __launch_bounds__(kRangeThreads) range_kernel(const QueryTile* tiles, int64_t count, int2* range) {
  __shared__ int first, last;
  if (threadIdx.x == 0) first = 0x7fffffff, last = 0;
  __syncthreads();
  int low = 0x7fffffff, high = 0;
  for (int64_t t = threadIdx.x; t < count; t += kRangeThreads) {
    if (!sees(tiles[t], int64_t{blockIdx.x} * kKeys)) continue;
    low = min(low, static_cast<int>(t)), high = max(high, static_cast<int>(t) + 1);
  }
  low = __reduce_min_sync(kAllLanes, low), high = __reduce_max_sync(kAllLanes, high);
  if (threadIdx.x % 32 == 0) atomicMin(&first, low), atomicMax(&last, high);
  __syncthreads();
  if (threadIdx.x == 0) range[blockIdx.x] = int2{first < last ? first : 0, last};
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

// Which of its keys no query sees. One block of kUnseenThreads a block of keys: some threads a key, which share the
// tiles out.
constexpr int kUnseenParts = 4, kUnseenThreads = kUnseenParts * kKeys;
__global__ void __launch_bounds__(kUnseenThreads)
    unseen_kernel(const int32_t* begin, const int32_t* end, int64_t queries, int64_t keys, const QueryTile* tiles,
                  const int2* range, uint4* unseen) {
  __shared__ unsigned seen[kKeys / 32];
  const int2 in_sight = range[blockIdx.x];
  const int j = threadIdx.x % kKeys, part = threadIdx.x / kKeys;
  const int64_t key = int64_t{blockIdx.x} * kKeys + j;
  if (threadIdx.x < kKeys / 32) seen[threadIdx.x] = 0;
  __syncthreads();
  // Most keys are seen by whole tiles.
  bool found = key >= keys;
  for (int t = in_sight.y - 1 - part; t >= in_sight.x && !__all_sync(kAllLanes, found); t -= kUnseenParts) {
    found = found || (key >= tiles[t].most_begin && key < tiles[t].least_end);
  }
  unsigned bits = __ballot_sync(kAllLanes, found);
  if (j % 32 == 0) atomicOr(&seen[j / 32], bits);
  __syncthreads();
  found = seen[j / 32] >> j % 32 & 1;
  __syncthreads();
  for (int t = in_sight.y - 1 - part; t >= in_sight.x && !__all_sync(kAllLanes, found); t -= kUnseenParts) {
    if (found || key < tiles[t].low || key >= tiles[t].high) continue;
    for (int64_t row = int64_t{t} * kRows; row < queries && row < int64_t{t + 1} * kRows && !found; ++row) {
      found = key >= begin[row] && key < end[row];
    }
  }
  bits = __ballot_sync(kAllLanes, found);
  if (j % 32 == 0) atomicOr(&seen[j / 32], bits);
  __syncthreads();
  if (threadIdx.x == 0) unseen[blockIdx.x] = uint4{~seen[0], ~seen[1], ~seen[2], ~seen[3]};
}

// The rule: outputs that are not gated take the joint pass, which makes five products instead of seven (window 1,024:
// 13.8 ms instead of 15.1; 16 heads of 128, 262,144 tokens). Where they are, the pass for the queries makes the gate's
// gradients on its way, and beside the joint pass does that alone: it took 4.6 ms instead of 3.8 where tiles of queries
// see 1.5 blocks of keys on average and 8.7 instead of 8.2 at 4.5, but 14.7 instead of 16.7 at 8.5 and 49.6 instead of
// 54.8 at 32.5. Only the device knows the intervals, so it chooses. One block of threads.
constexpr int kChoiceThreads = 1024, kLeastBlocks = 6;
__global__ void __launch_bounds__(kChoiceThreads)
    choose_kernel(const QueryTile* tiles, int64_t count, bool joint, int* choice) {
  __shared__ unsigned long long blocks;
  if (threadIdx.x == 0) blocks = 0;
  __syncthreads();
  unsigned long long own = 0;
  for (int64_t t = threadIdx.x; t < count; t += kChoiceThreads) {
    if (tiles[t].high > 0) own += (tiles[t].high - 1) / kKeys - tiles[t].low / kKeys + 1;
  }
  atomicAdd(&blocks, own);
  __syncthreads();
  if (threadIdx.x == 0) *choice = joint || blocks >= static_cast<unsigned long long>(kLeastBlocks * count);
}

// Tiles of queries that see nothing have no contributions to dq: zeros. One warp a tile.
__global__ void blank_kernel(const QueryTile* tiles, int64_t count, int64_t queries, int64_t q_heads, int64_t dim,
                             HeadsRef<float> dq) {
  const int64_t tile = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / 32;
  if (tile >= count || tiles[tile].high > 0) return;
  for (int64_t row = tile * kRows; row < queries && row < (tile + 1) * kRows; ++row) {
    for (int64_t head = 0; head < q_heads; ++head) {
      for (int64_t c = threadIdx.x % 32; c < dim; c += 32) at(dq, row, head)[c] = 0;
    }
  }
}

// dq from its fp32 sums [queries, heads, dim], eight elements a thread.
template <class U>
__global__ void round_kernel(const float* sums, int64_t count, int64_t heads, int dim, HeadsRef<U> dq) {
  const int64_t first = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * 8;
  if (first >= count) return;
  const auto x = load_constant<4>(sums + first), y = load_constant<4>(sums + first + 4);
  Pack<U, 8> out;
#pragma unroll
  for (int i = 0; i < 4; ++i) out.item[i] = from_float<U>(x.item[i]), out.item[i + 4] = from_float<U>(y.item[i]);
  const int64_t pair = first / dim, row = pair / heads;
  store_pack(at(dq, row, pair - row * heads) + (first - pair * dim), out);
}

constexpr int64_t rounded(int64_t bytes) { return (bytes + 255) / 256 * 256; }

// Whether the joint pass takes this at all: it is compiled for heads of 65 to 128 channels.
template <class U>
bool joint_suits(const IntervalBackward<bf16, U>& a) {
  return a.dim > 64 && aligned16(a.dq) && a.passes != BackwardPasses::two;
}

template <class U>
bool is_gated(const IntervalBackward<bf16, U>& a) {
  return a.gated.delta != nullptr;
}

// The scratch memory.
struct Pieces {
  int64_t tiles, range, unseen, counters, delta, sums, bytes;
  template <class U>
  explicit Pieces(const IntervalBackward<bf16, U>& a) {
    const int64_t count = blocks_for(a.queries, kRows), blocks = blocks_for(a.keys, kKeys);
    int64_t used = 0;
    const auto take = [&](int64_t piece) {
      const int64_t start = used;
      used += rounded(piece);
      return start;
    };
    tiles = take(count * sizeof(QueryTile)), range = take(blocks * sizeof(int2));
    delta = take(a.delta == nullptr ? a.queries * a.heads * 4 : 0);
    unseen = counters = sums = 0;
    if (joint_suits(a)) {
      unseen = take(blocks * sizeof(uint4)), counters = take((2 + count * a.q_heads) * 4);
      sums = take(std::is_same_v<U, float> ? 0 : a.queries * a.q_heads * a.dim * 4);
    }
    bytes = used;
  }
};

// Prepares the joint pass, and for gated outputs the choice.
template <class U>
BlockPlan plan_joint(const IntervalBackward<bf16, U>& a, const Pieces& pieces, const QueryTile* tiles,
                     const int2* range, cudaStream_t stream) {
  const int64_t count = blocks_for(a.queries, kRows), blocks = blocks_for(a.keys, kKeys);
  auto* memory = static_cast<char*>(a.scratch);
  auto* unseen = reinterpret_cast<uint4*>(memory + pieces.unseen);
  unseen_kernel<<<static_cast<unsigned>(blocks), kUnseenThreads, 0, stream>>>(a.begin, a.end, a.queries, a.keys, tiles,
                                                                              range, unseen);
  check_launch("attention_backward (unseen keys)");
  auto* counters = reinterpret_cast<int*>(memory + pieces.counters);
  zero_async(counters, (2 + count * a.q_heads) * 4, "attention_backward (turns)", stream);
  if (is_gated(a)) {
    choose_kernel<<<1, kChoiceThreads, 0, stream>>>(tiles, count, a.passes == BackwardPasses::joint, counters + 1);
    check_launch("attention_backward (choice)");
  }
  return {tiles, range, unseen, counters + 2, counters, is_gated(a) ? counters + 1 : nullptr};
}

template <class U>
void run(IntervalBackward<bf16, U> a, cudaStream_t stream) {
  const Pieces pieces(a);
  auto* memory = static_cast<char*>(a.scratch);
  auto* tiles = reinterpret_cast<QueryTile*>(memory + pieces.tiles);
  auto* range = reinterpret_cast<int2*>(memory + pieces.range);
  if (a.delta == nullptr) {
    auto* delta = reinterpret_cast<float*>(memory + pieces.delta);
    delta_kernel<<<static_cast<unsigned>(blocks_for(a.queries * a.heads, 8)), 256, 0, stream>>>(
        a.queries, a.heads, static_cast<int>(a.dim), a.o, a.d_o, a.d_lse, delta);
    check_launch("attention_backward (delta)");
    a.delta = delta;
  }
  const int64_t count = blocks_for(a.queries, kRows), blocks = blocks_for(a.keys, kKeys);
  tiles_kernel<<<static_cast<unsigned>(blocks_for(count, 8)), 256, 0, stream>>>(a.begin, a.end, a.queries, tiles,
                                                                                count);
  check_launch("attention_backward (tiles)");
  range_kernel<<<static_cast<unsigned>(blocks), kRangeThreads, 0, stream>>>(tiles, count, range);
  check_launch("attention_backward (range)");
  BlockPlan plan{tiles, range, nullptr, nullptr, nullptr, nullptr};
  const bool joint = joint_suits(a);
  if (joint) plan = plan_joint(a, pieces, tiles, range, stream);
  if (!joint || is_gated(a)) {
    a.joint = plan.joint;
    interval_query_hopper(a, stream);
    interval_key_hopper(a, plan, stream);
  }
  if (!joint) return;
  HeadsRef<float> sums{reinterpret_cast<float*>(memory + pieces.sums), a.q_heads * a.dim, a.dim};
  if constexpr (std::is_same_v<U, float>) sums = a.dq;
  if (!is_gated(a)) {  // the pass for the queries writes all of dq
    blank_kernel<<<static_cast<unsigned>(blocks_for(count, 8)), 256, 0, stream>>>(tiles, count, a.queries, a.q_heads,
                                                                                  a.dim, sums);
    check_launch("attention_backward (blank queries)");
  }
  interval_joint_hopper(a, sums, plan, stream);
  if constexpr (!std::is_same_v<U, float>) {
    const int64_t elements = a.queries * a.q_heads * a.dim;
    round_kernel<<<static_cast<unsigned>(blocks_for(elements, 2048)), 256, 0, stream>>>(sums.data, elements, a.q_heads,
                                                                                        static_cast<int>(a.dim), a.dq);
    check_launch("attention_backward (rounding)");
  }
}

}  // namespace interval_backward_hopper_file

template <class U>
int64_t interval_backward_hopper_bytes(const IntervalBackward<bf16, U>& a) {
  return interval_backward_hopper_file::Pieces(a).bytes;
}
template int64_t interval_backward_hopper_bytes(const IntervalBackward<bf16, bf16>& a);
template int64_t interval_backward_hopper_bytes(const IntervalBackward<bf16, float>& a);

template <class U>
void interval_backward_hopper(const IntervalBackward<bf16, U>& a, void* stream) {
  interval_backward_hopper_file::run(a, static_cast<cudaStream_t>(stream));
}
template void interval_backward_hopper(const IntervalBackward<bf16, bf16>& a, void* stream);
template void interval_backward_hopper(const IntervalBackward<bf16, float>& a, void* stream);

}  // namespace rattan::kernels::cuda
