// One block a row. A warp owns a range of ids, so that what comes first by id is found by warp, then within it.
//
// "The first k", or those that reach a share, are not sorted: the logit at the border is searched for by its bits, an
// eighth of what is left at a time, counting or weighing all that is not smaller. Integer sums make that exact.
#include <cmath>

#include "rattan/kernels/cuda/dependent_launch.cuh"
#include "rattan/kernels/cuda/device.cuh"
#include "rattan/kernels/token_draw.h"

namespace rattan::kernels::cuda {
namespace token_draw_file {

constexpr int kThreads = 1024, kWarps = kThreads / 32, kPivots = 7;

// Ascending like the numbers.
__device__ inline uint64_t key_of(float z) {
  const uint32_t bits = __float_as_uint(z == 0 ? 0.0f : z);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ inline float of_key(uint64_t key) {
  const auto bits = static_cast<uint32_t>(key);
  return __uint_as_float(bits & 0x80000000u ? bits & 0x7fffffffu : ~bits);
}

// Sums over the block; every thread gets them.
template <int N>
__device__ void add_up(uint64_t (&x)[N]) {
  __shared__ uint64_t parts[N][kWarps];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int i = 0; i < N; ++i) {
#pragma unroll
    for (int d = 16; d > 0; d /= 2) x[i] += __shfl_xor_sync(kAllLanes, x[i], d);
    if (lane == 0) parts[i][warp] = x[i];
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < N; ++i) {
    x[i] = parts[i][lane];
#pragma unroll
    for (int d = 16; d > 0; d /= 2) x[i] += __shfl_xor_sync(kAllLanes, x[i], d);
  }
  __syncthreads();
}

struct Row {
  const float* z;
  int n, begin, end;  // tokens, and this warp's ids
  float highest, scale;

  __device__ float share(float z) const { return expf((z - highest) * scale); }
  __device__ uint64_t weight(float z) const { return __float2ull_rn(share(z) * draw_unit); }

  template <class Body>
  __device__ void each(Body&& body) const {
#pragma unroll 4
    for (int i = begin + static_cast<int>(threadIdx.x % 32); i < end; i += 32) body(z[i], i);
  }
};

// The largest logit of the block's row, whether it has a choice at all.
__device__ bool find_highest(Row& row) {
  __shared__ float parts[kWarps];
  float top = -INFINITY;
  bool sound = true;
  row.each([&](float z, int) { sound = sound && z < INFINITY, top = fmaxf(top, z); });
#pragma unroll
  for (int d = 16; d > 0; d /= 2) top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, d));
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = top;
  const bool all_sound = __syncthreads_and(sound);
  top = parts[threadIdx.x % 32];
#pragma unroll
  for (int d = 16; d > 0; d /= 2) top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, d));
  row.highest = top;
  return all_sound && top > -INFINITY;
}

// What is kept: all with a larger key, and the first `ties` by id of those with this one.
struct Border {
  uint64_t key = 0, ties = 0;
};
struct Found {
  uint64_t key, above;  // sum over larger keys: less than what was looked for
};

// The largest key for which measure(z), summed over all that are not smaller, reaches `needed`.
template <class Measure>
__device__ Found search(const Row& row, uint64_t needed, Measure&& measure) {
  Found found{0, 0};
  for (uint64_t step = uint64_t{1} << 30; step > 0; step /= 8) {
    uint64_t sums[kPivots] = {};
    row.each([&](float z, int) {
      const uint64_t key = key_of(z), x = measure(z);
#pragma unroll
      for (int j = 0; j < kPivots; ++j) sums[j] += key >= found.key + (j + 1) * step ? x : 0;
    });
    add_up(sums);
    int reached = 0;
#pragma unroll
    for (int j = 0; j < kPivots; ++j)
      if (sums[j] >= needed) reached = j + 1;
#pragma unroll
    for (int j = 0; j < kPivots; ++j)
      if (j == reached) found.above = sums[j];
    found.key += reached * step;
  }
  return found;
}

template <class Measure>
__device__ uint64_t sum_above(const Row& row, uint64_t border, Measure&& measure) {
  uint64_t sum[1] = {};
  row.each([&](float z, int) { sum[0] += key_of(z) > border ? measure(z) : 0; });
  add_up(sum);
  return sum[0];
}

__device__ Border border_of(const Row& row, const DrawRule& rule, int64_t vocabulary) {
  if (!(rule.temperature > 0)) return {key_of(row.highest), 1};
  const auto weight = [&](float z) { return row.weight(z); };
  Border border;
  uint64_t sum = 0;
  const bool some = rule.top_k > 0 && rule.top_k < static_cast<double>(vocabulary), share = rule.top_p < 1;
  if (some) {
    const auto k = static_cast<uint64_t>(rule.top_k);
    const Found found = search(row, k, [](float) { return uint64_t{1}; });
    border = {found.key, k - found.above};
  }
  if (!share) return border;
  sum = sum_above(row, border.key, weight);
  if (some) sum += border.ties * row.weight(of_key(border.key));
  // Whole units that reach the share: sums are compared as the definition does, which is exact below 2^53.
  const auto needed = static_cast<uint64_t>(ceil(rule.top_p * static_cast<double>(sum)));
  if (needed == 0) return {key_of(row.highest), 1};
  const Found found = search(row, needed, weight);
  const uint64_t each = row.weight(of_key(found.key));
  return {found.key, (needed - found.above + each - 1) / each};
}

__device__ void draw(const Row& row, const DrawRule& rule, const Border& border, int64_t* index) {
  __shared__ uint64_t sums[kWarps], ties[kWarps];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const float least = static_cast<float>(rule.min_p) * draw_unit;
  const auto weight = [&](float z) {
    const uint64_t w = row.weight(z);
    return static_cast<float>(w) < least ? 0 : w;
  };
  uint64_t sum = 0, equal = 0;
  row.each([&](float z, int) {
    const uint64_t key = key_of(z);
    sum += key > border.key ? weight(z) : 0;
    equal += key == border.key;
  });
#pragma unroll
  for (int d = 16; d > 0; d /= 2) {
    sum += __shfl_xor_sync(kAllLanes, sum, d);
    equal += __shfl_xor_sync(kAllLanes, equal, d);
  }
  if (lane == 0) sums[warp] = sum, ties[warp] = equal;
  if (threadIdx.x == 0) *index = 0;
  __syncthreads();
  if (warp != 0) return;
  // The first warp draws a range, then a token in it. of_key(0) is a NaN, and no logit has that key.
  const uint64_t tie = border.ties > 0 ? weight(of_key(border.key)) : 0;
  uint64_t before = 0, total = 0;
  for (int w = 0; w < kWarps; ++w) {
    const uint64_t room = border.ties - min(border.ties, before);
    before += ties[w];
    if (lane == w) equal = min(ties[w], room), sum = sums[w] + equal * tie;
  }
  total = sum;
#pragma unroll
  for (int d = 16; d > 0; d /= 2) total += __shfl_xor_sync(kAllLanes, total, d);
  uint64_t left = min(static_cast<uint64_t>(rule.uniform * static_cast<double>(total)), total - 1);
  int range = 0;
  uint64_t ties_left = 0;
  for (bool found = false; !found && range < kWarps; range += !found) {
    const uint64_t here = __shfl_sync(kAllLanes, sum, range);
    ties_left = __shfl_sync(kAllLanes, equal, range);
    found = left < here;
    if (!found) left -= here;
  }
  const int width = row.end - row.begin;  // of the first warp's range, which is never a shorter one
  const int first = range * width, end = min(row.n, first + width);
  for (int i = first + lane; i - lane < end; i += 32) {
    const bool in = i < end;
    const float z = in ? row.z[i] : 0;
    const bool equals = in && key_of(z) == border.key;
    const unsigned marks = __ballot_sync(kAllLanes, equals);
    const bool kept_tie = equals && __popc(marks & ((1u << lane) - 1)) < ties_left;
    uint64_t reach = in && (key_of(z) > border.key || kept_tie) ? weight(z) : 0;
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
      const uint64_t other = __shfl_up_sync(kAllLanes, reach, d);
      if (lane >= d) reach += other;
    }
    const unsigned beyond = __ballot_sync(kAllLanes, reach > left);
    if (beyond != 0) {
      if (lane == __ffs(beyond) - 1) *index = i;
      return;
    }
    left -= __shfl_sync(kAllLanes, reach, 31);
    ties_left -= min(ties_left, static_cast<uint64_t>(__popc(marks)));
  }
}

__global__ void __launch_bounds__(kThreads) kernel(TokenDraw a) {
  __shared__ int64_t index;
  wait_for_stream();
  release_next();
  const int64_t r = blockIdx.x;
  const int n = static_cast<int>(a.vocabulary), width = (n + kWarps - 1) / kWarps;
  const int begin = min(n, static_cast<int>(threadIdx.x) / 32 * width);
  Row row{at(a.logits, r), n, begin, min(n, begin + width), 0, 1};
  const bool sound = find_highest(row);
  if (sound) {
    uint64_t sum[1] = {};
    row.each([&](float z, int) { sum[0] += row.weight(z); });
    add_up(sum);
    const DrawRule rule = a.rules[r];
    row.scale = 1 / static_cast<float>(fmax(rule.temperature, 1e-30));
    draw(row, rule, border_of(row, rule, a.vocabulary), &index);
    __syncthreads();
    if (threadIdx.x == 0) {
      a.index[r] = index;
      a.logprob[r] = static_cast<double>(row.z[index]) - static_cast<double>(row.highest) -
                     log(static_cast<double>(sum[0]) / static_cast<double>(draw_unit));
    }
  } else if (threadIdx.x == 0) {
    a.index[r] = 0, a.logprob[r] = nan("");
  }
}

}  // namespace token_draw_file

void token_draw(const TokenDraw& a, void* stream) {
  if (a.rows == 0) return;
  launch_dependent("token_draw", token_draw_file::kernel, static_cast<unsigned>(a.rows), token_draw_file::kThreads, 0,
                   static_cast<cudaStream_t>(stream), a);
}

}  // namespace rattan::kernels::cuda
