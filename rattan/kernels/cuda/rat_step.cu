// RAT forward of a decoding step: every chunk is one token and sees no end that this call writes. One kernel: gates,
// running states, chunk end, rotated query, attention over the ends, local entry, output gate. One block a token and
// head; where those are too few to fill a device, a block a part of the ends, of which the first keeps the states, and
// a second kernel that merges.
#include "rattan/kernels/cuda/interval_rows.cuh"
#include "rattan/kernels/cuda/launch.h"
#include "rattan/kernels/cuda/rat_stages.h"

namespace rattan::kernels::cuda {

namespace rat_step_file {

template <class T>
struct Step {
  RatForward<T> a;
  float* parts;  // row_part() of each token, head and part
  float* own;    // [tokens, heads, dim + 1]: running value and local score, if there are several parts
  bool vector;
};

// A head's vectors in shared memory, fp32.
template <int width>
struct Vectors {
  float query[width], key[width], value[width];
  float dots[kRowWarps];
};

// Channel `c` of x rotated by the chunk's angle; one without a partner (odd dim) stays.
__device__ inline float rotated(const float* x, int c, const float* cos, const float* sin, int64_t position, int dim) {
  const int half = dim / 2;
  if (!cos || c >= 2 * half) return x[c];
  const bool low = c < half;
  const int64_t angle = position * half + (low ? c : c - half);
  return x[c] * cos[angle] + (low ? -x[c + half] : x[c - half]) * sin[angle];
}

// Moves the running states on and writes them and the chunk end; the state goes to `v`, too.
template <class T, int width>
__device__ void advance(const RatForward<T>& a, const RatChunk& c, int head, Vectors<width>& v) {
  const RatColumns columns(a.shape);
  const int dim = static_cast<int>(a.shape.dim);
  const int64_t own = int64_t{head} * dim, of_group = head % a.shape.groups * dim;
  const T* token = at(a.proj, c.begin);
  for (int i = threadIdx.x; i < dim; i += kRowThreads) {
    const float g = sigmoid(as_float(token[columns.g + own + i]) + a.gate_bias[own + i]);
    const float k = c.from >= 0 ? at(a.running_k, c.from, head)[i] : 0.0f;
    const float u = c.from >= 0 ? at(a.running_v, c.from, head)[i] : 0.0f;
    v.key[i] = g * k + (1 - g) * as_float(token[columns.k + of_group + i]);
    v.value[i] = g * u + (1 - g) * as_float(token[columns.v + own + i]);
    if (c.to >= 0 && a.final_k.data) {
      at(a.final_k, c.to, head)[i] = v.key[i];
      at(a.final_v, c.to, head)[i] = v.value[i];
    }
    at(a.ends_v, c.slot, head)[i] = from_float<T>(v.value[i]);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < dim; i += kRowThreads) {
    at(a.ends_k, c.slot, head)[i] = from_float<T>(rotated(v.key, i, a.cos, a.sin, c.position, dim));
  }
}

// s q.k~; the same in every thread.
template <int width>
__device__ float local_score(Vectors<width>& v, int dim) {
  float dot = 0;
  for (int i = threadIdx.x; i < dim; i += kRowThreads) dot += v.query[i] * v.key[i];
  dot = warp_sum(dot);
  if (threadIdx.x % 32 == 0) v.dots[threadIdx.x / 32] = dot;
  __syncthreads();
  float sum = 0;
  for (float x : v.dots) sum += x;
  return sum * rsqrtf(static_cast<float>(dim));
}

// out and lse of a token and head: the ends have weighted values value(c), maximum top (times log2 e) and sum.
template <class T, class Value, class Own>
__device__ void finish(const RatForward<T>& a, int64_t n, int head, float top, float sum, float score, Value&& value,
                       Own&& own) {
  const int dim = static_cast<int>(a.shape.dim);
  const float scaled = score * kLog2e, most = fmaxf(top, scaled);
  const float others = exp2f(top - most), mine = exp2f(scaled - most), total = sum * others + mine;
  const T* z = at(a.proj, n) + RatColumns(a.shape).z + int64_t{head} * dim;
  T* out = at(a.out, n) + int64_t{head} * dim;
  for (int c = threadIdx.x; c < dim; c += kRowThreads) {
    const float y = (value(c) * others + mine * own(c)) / total;
    out[c] = from_float<T>(sigmoid(as_float(z[c])) * y);
  }
  if (a.lse && threadIdx.x == 0) a.lse[n * a.shape.heads + head] = (most + log2f(total)) * kLn2;
}

template <class T, int lanes, int C>
__global__ void __launch_bounds__(kRowThreads) kernel(Step<T> p) {
  __shared__ RowSums<lanes, C> sums;
  __shared__ Vectors<lanes * C> v;
  const RatForward<T>& a = p.a;
  const int head = blockIdx.y, dim = static_cast<int>(a.shape.dim);
  const RatChunk c = a.table[blockIdx.x];
  const int64_t count = c.slot - c.first, pair = int64_t{blockIdx.x} * a.shape.heads + head;
  const HeadsRef<const T> ends_k{a.ends_k.data, a.ends_k.row, a.ends_k.head};
  const HeadsRef<const T> ends_v{a.ends_v.data, a.ends_v.row, a.ends_v.head};
  RowKeys<T, lanes, C> keys(ends_k, ends_v, head, c.first + count * blockIdx.z / gridDim.z,
                            c.first + count * (blockIdx.z + 1) / gridDim.z, dim, p.vector);
  const T* query = at(a.proj, c.begin) + RatColumns(a.shape).q + head % a.shape.groups * dim;
  for (int i = threadIdx.x; i < dim; i += kRowThreads) v.query[i] = as_float(query[i]);
  const bool keeps_state = blockIdx.z == 0;
  if (keeps_state) advance(a, c, head, v);
  __syncthreads();
  float q[C];
#pragma unroll
  for (int i = 0; i < C; ++i) {
    const int channel = keys.first + i;
    q[i] = channel < dim ? rotated(v.query, channel, a.cos, a.sin, c.position, dim) : 0.0f;
    q[i] *= rsqrtf(static_cast<float>(dim)) * kLog2e;
  }
  auto state = keys.attend(q);
  sums.put(state);
  const RowTotal total(sums);
  const float score = keeps_state ? local_score(v, dim) : 0.0f;
  if (gridDim.z == 1) {
    finish(
        a, c.begin, head, total.top, total.sum, score, [&](int i) { return total.value(sums, i); },
        [&](int i) { return v.value[i]; });
    return;
  }
  float* part = row_part(p.parts, pair, blockIdx.z, gridDim.z, dim);
  for (int i = threadIdx.x; i < dim; i += kRowThreads) part[i] = total.value(sums, i);
  if (threadIdx.x == 0) part[dim] = total.top, part[dim + 1] = total.sum;
  if (!keeps_state) return;
  float* own = p.own + pair * (dim + 1);
  for (int i = threadIdx.x; i < dim; i += kRowThreads) own[i] = v.value[i];
  if (threadIdx.x == 0) own[dim] = score;
}

template <class T>
__global__ void __launch_bounds__(kRowThreads) merge_kernel(Step<T> p, int64_t count) {
  const RatForward<T>& a = p.a;
  const int head = blockIdx.y, dim = static_cast<int>(a.shape.dim);
  const int64_t pair = int64_t{blockIdx.x} * a.shape.heads + head;
  const RowParts parts(p.parts, pair, count, dim);
  const float* own = p.own + pair * (dim + 1);
  finish(
      a, a.table[blockIdx.x].begin, head, parts.top, parts.sum, own[dim], [&](int i) { return parts.value(i); },
      [&](int i) { return own[i]; });
}

int64_t parts_of(const RatShape& s) { return row_parts(s.tokens, s.ends, s.heads); }

}  // namespace rat_step_file

int64_t rat_step_scratch_bytes(const RatShape& s) {
  const int64_t n = rat_step_file::parts_of(s);
  return n == 1 ? 0 : s.tokens * s.heads * (n * (s.dim + 2) + s.dim + 1) * 4;
}

template <class T>
void rat_step(const RatForward<T>& a, void* scratch, cudaStream_t stream) {
  using namespace rat_step_file;
  const RatShape& s = a.shape;
  const int64_t n = parts_of(s);
  auto* parts = static_cast<float*>(scratch);
  const bool vector = s.dim * sizeof(T) % 16 == 0 && aligned16(a.ends_k) && aligned16(a.ends_v);
  const Step<T> p{a, parts, n == 1 ? nullptr : parts + s.tokens * s.heads * n * (s.dim + 2), vector};
  const dim3 grid(static_cast<unsigned>(s.chunks), static_cast<unsigned>(s.heads), static_cast<unsigned>(n));
  with_row_lanes<T>(s.dim, [&]<int lanes, int C>() {
    kernel<T, lanes, C><<<grid, kRowThreads, 0, stream>>>(p);
    check_launch("rat_forward (step)");
  });
  if (n == 1) return;
  merge_kernel<<<dim3(grid.x, grid.y), kRowThreads, 0, stream>>>(p, n);
  check_launch("rat_forward (parts of a step)");
}
template void rat_step(const RatForward<float>& a, void* scratch, cudaStream_t stream);
template void rat_step(const RatForward<bf16>& a, void* scratch, cudaStream_t stream);

}  // namespace rattan::kernels::cuda
