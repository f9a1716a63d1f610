// RAT forward of a decoding step: every chunk is one token and sees no end that this call writes. One kernel: gates,
// running states, chunk end, rotated query, attention over the ends, local entry, output gate. One block a token and
// head; where those are too few to fill a device, a block a part of the ends, of which the first keeps the states, and
// a second kernel that merges. All that a block reads is asked for as soon as its chunk is known; in a recording that
// is while the launch before, which makes the projections and nothing else that is read here, is still busy.
#include "rattan/kernels/cuda/dependent_launch.cuh"
#include "rattan/kernels/cuda/interval_rows.cuh"
#include "rattan/kernels/cuda/rat_stages.h"

namespace rattan::kernels::cuda {

namespace rat_step_file {

// E: what the ends are held in, T or int8_t (mxint8.h).
template <class T, class E>
struct Step {
  RatForward<T> a;
  float* parts;  // row_part() of each token, head and part
  float* own;    // [tokens, heads, dim + 1]: running value and local score, if there are several parts
  bool vector;
};

// A head's vectors in shared memory, fp32.
template <int width, int warps>
struct Vectors {
  float query[width], key[width], turned[width];  // turned: the rotated query, times the scale and log2 e
  float dots[warps];
};

// What one thread has of a token and head: a channel, or several `threads` apart.
template <class T, int threads, int width>
struct Channels {
  static constexpr int n = (width + threads - 1) / threads;
  float query[n], key[n], value[n], gate[n], old_key[n], old_value[n], out_gate[n], cos[n], sin[n];

  template <class F>
  __device__ void each(int dim, F&& f) {
#pragma unroll
    for (int i = 0; i < n; ++i) {
      const int channel = static_cast<int>(threadIdx.x) + i * threads;
      if (channel < dim) f(i, channel);
    }
  }

  template <class F>
  __device__ void all(F&& f) {
#pragma unroll
    for (int i = 0; i < n; ++i) f(i, static_cast<int>(threadIdx.x) + i * threads);
  }

  // What is there before the token's projections are.
  __device__ void load_memory(const RatForward<T>& a, const RatChunk& c, int head, bool keeps_state) {
    const int dim = static_cast<int>(a.shape.dim), half = dim / 2;
    each(dim, [&](int i, int channel) {
      cos[i] = 1, sin[i] = 0;  // a channel without a partner (odd dim) stays
      if (a.cos && channel < 2 * half) {
        const int64_t angle = int64_t{c.position} * half + (channel < half ? channel : channel - half);
        cos[i] = a.cos[angle], sin[i] = channel < half ? -a.sin[angle] : a.sin[angle];
      }
      if (!keeps_state) return;
      gate[i] = a.gate_bias[int64_t{head} * dim + channel];
      old_key[i] = c.from >= 0 ? at(a.running_k, c.from, head)[channel] : 0.0f;
      old_value[i] = c.from >= 0 ? at(a.running_v, c.from, head)[channel] : 0.0f;
    });
  }

  __device__ void load_token(const RatForward<T>& a, const RatChunk& c, int head, bool keeps_state) {
    const RatColumns columns(a.shape);
    const int dim = static_cast<int>(a.shape.dim);
    const int64_t own = int64_t{head} * dim, of_group = head % a.shape.groups * dim;
    const T* token = at(a.proj, c.begin);
    each(dim, [&](int i, int channel) {
      query[i] = as_float(token[columns.q + of_group + channel]);
      if (!keeps_state) return;
      key[i] = as_float(token[columns.k + of_group + channel]);
      value[i] = as_float(token[columns.v + own + channel]);
      gate[i] += as_float(token[columns.g + own + channel]);
      out_gate[i] = as_float(token[columns.z + own + channel]);
    });
  }

  // x is in shared memory. Channel i of it rotated by the chunk's angle.
  __device__ float rotated(const float* x, int i, int channel, int dim) const {
    const int half = dim / 2, partner = channel < half ? channel + half : channel - half;
    return x[channel] * cos[i] + (channel < 2 * half ? x[partner] * sin[i] : 0.0f);
  }
};

// out and lse of a token and head: the ends have weighted values value(c), maximum top (times log2 e) and sum.
template <class T>
struct Finish {
  float others, mine, total;

  // score: s q.k~ of the token itself, times log2 e.
  __device__ Finish(const RatForward<T>& a, int64_t token, int head, float top, float sum, float score) {
    const float most = fmaxf(top, score);
    others = fast_exp2(top - most), mine = fast_exp2(score - most), total = sum * others + mine;
    if (a.lse && threadIdx.x == 0) a.lse[token * a.shape.heads + head] = (most + log2f(total)) * kLn2;
  }
  __device__ T out(float ends, float own, float gate) const {
    return from_float<T>(sigmoid(gate) * ((ends * others + mine * own) / total));
  }
};

template <class E, class T>
__host__ __device__ auto ends_k(const RatForward<T>& a) {
  if constexpr (sizeof(E) == 1) {
    return a.cached_k;
  } else {
    return a.ends_k;
  }
}
template <class E, class T>
__host__ __device__ auto ends_v(const RatForward<T>& a) {
  if constexpr (sizeof(E) == 1) {
    return a.cached_v;
  } else {
    return a.ends_v;
  }
}
template <class T>
__device__ void put_end(const HeadsRef<T>& ends, int64_t slot, int head, int channel, int dim, float x) {
  if (channel < dim) at(ends, slot, head)[channel] = from_float<T>(x);
}
// Channels of a warp are those of a block of 32.
template <class T>
__device__ void put_end(const Mxint8Heads<int8_t>& ends, int64_t slot, int head, int channel, int dim, float x) {
  mxint8_put<T>(ends, slot, head, channel, dim, x);
}

template <class T, class E, int lanes, int C, int warps>
__global__ void __launch_bounds__(warps * 32, row_blocks<E>(warps, C)) kernel(Step<T, E> p) {
  constexpr int width = lanes * C, threads = warps * 32;
  __shared__ RowSums<lanes, C, warps> sums;
  __shared__ Vectors<width, warps> v;
  const RatForward<T>& a = p.a;
  const int heads = static_cast<int>(a.shape.heads), dim = static_cast<int>(a.shape.dim);
  const int chunk = static_cast<int>(blockIdx.x) / heads, head = static_cast<int>(blockIdx.x) - chunk * heads;
  const RatChunk c = a.table[chunk];
  const int64_t count = c.slot - c.first, pair = blockIdx.x;
  const bool keeps_state = blockIdx.y == 0;
  Channels<T, threads, width> x;
  x.load_memory(a, c, head, keeps_state);
  RowKeys<E, lanes, C, warps> keys(row_source(ends_k<E>(a)), row_source(ends_v<E>(a)), head,
                                   c.first + count * blockIdx.y / gridDim.y,
                                   c.first + count * (blockIdx.y + 1) / gridDim.y, dim, p.vector);
  // Few sequences: what is asked for later would stand behind the weights of the products that start early.
  if constexpr (warps == RowPlan::wide) keys.fetch_ahead(3);
  wait_for_stream();
  release_next();
  x.load_token(a, c, head, keeps_state);
  float dot = 0;
  x.each(dim, [&](int i, int channel) {
    v.query[channel] = x.query[i];
    if (!keeps_state) return;
    const float g = sigmoid(x.gate[i]);
    x.key[i] = g * x.old_key[i] + (1 - g) * x.key[i];
    x.value[i] = g * x.old_value[i] + (1 - g) * x.value[i];
    v.key[channel] = x.key[i];
    dot += x.query[i] * x.key[i];
    if (c.to >= 0 && a.final_k.data) {
      at(a.final_k, c.to, head)[channel] = x.key[i];
      at(a.final_v, c.to, head)[channel] = x.value[i];
    }
  });
  if (keeps_state) {
    x.all([&](int i, int channel) { put_end<T>(ends_v<E>(a), c.slot, head, channel, dim, x.value[i]); });
  }
  dot = warp_sum(dot);
  if (threadIdx.x % 32 == 0) v.dots[threadIdx.x / 32] = dot;
  __syncthreads();
  const float scale = rsqrtf(static_cast<float>(dim)) * kLog2e;
  x.each(dim, [&](int i, int channel) { v.turned[channel] = x.rotated(v.query, i, channel, dim) * scale; });
  if (keeps_state) {
    x.all([&](int i, int channel) {
      const float turned = channel < dim ? x.rotated(v.key, i, channel, dim) : 0.0f;
      put_end<T>(ends_k<E>(a), c.slot, head, channel, dim, turned);
    });
  }
  float score = 0;
#pragma unroll
  for (int w = 0; w < warps; ++w) score += v.dots[w];
  score *= scale;
  __syncthreads();
  float q[C];
#pragma unroll
  for (int i = 0; i < C; ++i) q[i] = keys.first + i < dim ? v.turned[keys.first + i] : 0.0f;
  auto state = keys.attend(q);
  sums.put(state);
  const RowTotal<lanes, C, warps> total(sums);
  if (gridDim.y == 1) {
    const Finish<T> finish(a, c.begin, head, total.top, total.sum, score);
    T* out = at(a.out, c.begin) + int64_t{head} * dim;
    x.each(dim,
           [&](int i, int channel) { out[channel] = finish.out(total.value(channel), x.value[i], x.out_gate[i]); });
    return;
  }
  float* part = row_part(p.parts, pair, blockIdx.y, gridDim.y, dim);
  float* own = p.own + pair * (dim + 1);
  x.each(dim, [&](int i, int channel) {
    part[channel] = total.value(channel);
    if (keeps_state) own[channel] = x.value[i];
  });
  if (threadIdx.x != 0) return;
  part[dim] = total.top, part[dim + 1] = total.sum;
  if (keeps_state) own[dim] = score;
}

template <class T, class E>
__global__ void __launch_bounds__(kRowMergeThreads) merge_kernel(Step<T, E> p, int64_t count) {
  wait_for_stream();
  release_next();
  const RatForward<T>& a = p.a;
  const int heads = static_cast<int>(a.shape.heads), dim = static_cast<int>(a.shape.dim);
  const int chunk = static_cast<int>(blockIdx.x) / heads, head = static_cast<int>(blockIdx.x) - chunk * heads;
  const int64_t pair = blockIdx.x, token = a.table[chunk].begin;
  const RowParts parts(p.parts, pair, count, dim);
  const float* own = p.own + pair * (dim + 1);
  const Finish<T> finish(a, token, head, parts.top, parts.sum, own[dim]);
  const T* z = at(a.proj, token) + RatColumns(a.shape).z + int64_t{head} * dim;
  T* out = at(a.out, token) + int64_t{head} * dim;
  for (int i = threadIdx.x; i < dim; i += kRowMergeThreads) {
    out[i] = finish.out(parts.value(i), own[i], as_float(z[i]));
  }
}

__global__ void table_kernel(RatStepTable a) {
  wait_for_stream();
  release_next();
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= a.tokens) return;
  const int row = a.rows[i], position = a.positions[i], chunk = static_cast<int>(a.chunk), c = position / chunk;
  const int first = row * static_cast<int>(a.ends);
  a.table[i] = {i, i + 1, first, first + c, c, position == c * chunk ? -1 : row, row};
}

RowPlan plan_of(const RatShape& s) { return {s.tokens, s.ends, s.heads}; }

template <class E, class T>
void run(const RatForward<T>& a, void* scratch, cudaStream_t stream) {
  const RatShape& s = a.shape;
  const RowPlan plan = plan_of(s);
  const int64_t n = plan.parts;
  auto* parts = static_cast<float*>(scratch);
  const bool vector = s.dim * sizeof(E) % 16 == 0 && aligned16(row_source(ends_k<E>(a)).rows) &&
                      aligned16(row_source(ends_v<E>(a)).rows);
  const Step<T, E> p{a, parts, n == 1 ? nullptr : parts + s.tokens * s.heads * n * (s.dim + 2), vector};
  const dim3 grid(static_cast<unsigned>(s.chunks * s.heads), static_cast<unsigned>(n));
  with_row_lanes<E>(s.dim, plan.warps, [&]<int lanes, int C, int warps>() {
    launch_dependent("rat_forward (step)", kernel<T, E, lanes, C, warps>, grid, warps * 32, 0, stream, p);
  });
  if (n == 1) return;
  launch_dependent("rat_forward (parts of a step)", merge_kernel<T, E>, grid.x, kRowMergeThreads, 0, stream, p, n);
}

}  // namespace rat_step_file

int64_t rat_step_scratch_bytes(const RatShape& s) {
  const int64_t n = rat_step_file::plan_of(s).parts;
  return n == 1 ? 0 : s.tokens * s.heads * (n * (s.dim + 2) + s.dim + 1) * 4;
}

template <class T>
void rat_step(const RatForward<T>& a, void* scratch, cudaStream_t stream) {
  a.cached_k ? rat_step_file::run<int8_t>(a, scratch, stream) : rat_step_file::run<T>(a, scratch, stream);
}

void rat_step_table(const RatStepTable& a, void* stream) {
  if (a.tokens == 0) return;
  constexpr int threads = 128;
  launch_dependent("rat_step_table", rat_step_file::table_kernel, static_cast<unsigned>(blocks_for(a.tokens, threads)),
                   threads, 0, static_cast<cudaStream_t>(stream), a);
}

template void rat_step(const RatForward<float>& a, void* scratch, cudaStream_t stream);
template void rat_step(const RatForward<bf16>& a, void* scratch, cudaStream_t stream);

}  // namespace rattan::kernels::cuda
