// A block takes one segment and 32 channels and walks over it in tiles of up to 4 warps x 8 tokens. Each warp
// turns its 8 tokens into one affine map h -> A h + B, the maps before a warp are applied in order to the
// state at the start of the tile, and the warp then runs its tokens from there. Backward first walks forward
// to leave the state at the start of each tile in scratch, then walks the tiles in reverse.
#include "rattan/kernels/cuda/device.cuh"
#include "rattan/kernels/cuda/launch.h"
#include "rattan/kernels/gated_scan.h"

namespace rattan::kernels::cuda {

namespace gated_scan_file {

// Small blocks: while one waits for memory at a barrier, others of the multiprocessor work.
constexpr int kSteps = 8, kMaxWarps = 4;

// Warps a block: as many as the average segment fills.
int warps_for(int64_t tokens, int64_t segments) {
  int64_t warps = segments > 0 ? blocks_for(tokens, segments * kSteps) : 1;
  if (warps < 1) warps = 1;
  int power = 1;
  while (power < warps && power < kMaxWarps) power *= 2;
  return power;
}

// Tiles of segment s start at this row of the scratch states: the tiles of the segments before it are fewer.
__device__ int64_t first_tile(int64_t begin, int64_t segment, int64_t tile) { return begin / tile + segment; }
int64_t tile_rows(int64_t tokens, int64_t segments) {
  return tokens / (int64_t{warps_for(tokens, segments)} * kSteps) + segments + 1;
}

struct Maps {
  float a[kMaxWarps][32], b[kMaxWarps][32];
};

// Applies the maps of warps [from, to) in ascending order.
__device__ inline float apply(const Maps& maps, float state, int from, int to) {
  for (int w = from; w < to; ++w) state = maps.a[w][threadIdx.x] * state + maps.b[w][threadIdx.x];
  return state;
}

// Zeroes this block's channels in the rows that belong to no segment: those after this one up to the next,
// and for the first segment those before it.
template <class T>
__device__ void clear_gaps(const ScanSegment* table, int64_t segment, int64_t segments, int64_t tokens, RowsRef<T> rows,
                           int64_t channel, bool in) {
  const int64_t next = segment + 1 < segments ? table[segment + 1].begin : tokens;
  if (!in) return;
  for (int64_t t = table[segment].end + threadIdx.y; t < next; t += blockDim.y) at(rows, t)[channel] = from_float<T>(0);
  if (segment != 0) return;
  for (int64_t t = threadIdx.y; t < table[0].begin; t += blockDim.y) at(rows, t)[channel] = from_float<T>(0);
}

// Elements of a channel at kSteps tokens from `first`. Tokens beyond `limit` and missing channels repeat the last
// one there is, so that no load waits for a condition and all are in flight together. Needs limit > 0.
template <class T>
__device__ void load_steps(float (&out)[kSteps], const RowsRef<const T>& rows, int64_t first, int64_t limit,
                           int64_t channel) {
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
    out[i] = as_float(at(rows, first + i < limit ? first + i : limit - 1)[channel]);
  }
}

template <class T>
struct Inputs {
  float x[kSteps], g[kSteps];

  // Tokens beyond `limit` and missing channels become the identity (g = 1, x = 0).
  __device__ void load(const RowsRef<const T>& xs, const RowsRef<const T>& gates, float bias, int64_t first,
                       int64_t limit, int64_t channel, bool in) {
    load_steps(x, xs, first, limit, in ? channel : 0);
    load_steps(g, gates, first, limit, in ? channel : 0);
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      const bool here = in && first + i < limit;
      const float gate = sigmoid(g[i] + bias);
      x[i] = here ? x[i] : 0.0f;
      g[i] = here ? gate : 1.0f;
    }
  }
  // The affine map of all steps.
  __device__ void map(float& a, float& b) const {
    a = 1;
    b = 0;
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      a *= g[i];
      b = g[i] * b + (1 - g[i]) * x[i];
    }
  }
};

// blockIdx.x: segment, blockIdx.y: 32 channels; threadIdx.x: channel, threadIdx.y: warp.
template <class T>
__global__ void forward_kernel(GatedScanForward<T> a) {
  __shared__ Maps maps;
  const int64_t segment = blockIdx.x, channel = int64_t{blockIdx.y} * 32 + threadIdx.x;
  const bool in = channel < a.channels;
  const int warp = threadIdx.y, warps = blockDim.y;
  const ScanSegment s = a.table[segment];
  const float bias = a.gate_bias && in ? a.gate_bias[channel] : 0.0f;
  float state = s.from >= 0 && in ? a.initial[s.from * a.channels + channel] : 0.0f;
  for (int64_t t0 = s.begin; t0 < s.end; t0 += int64_t{warps} * kSteps) {
    const int64_t first = t0 + warp * kSteps;
    Inputs<T> inputs;
    inputs.load(a.x, a.gate, bias, first, s.end, channel, in);
    inputs.map(maps.a[warp][threadIdx.x], maps.b[warp][threadIdx.x]);
    __syncthreads();
    float h = apply(maps, state, 0, warp);
    state = apply(maps, h, warp, warps);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      h = inputs.g[i] * h + (1 - inputs.g[i]) * inputs.x[i];
      if (in && first + i < s.end) at(a.h, first + i)[channel] = from_float<T>(h);
    }
  }
  __syncthreads();  // every warp has read `initial`, which `final` may be
  if (s.to >= 0 && warp == 0 && in) a.final[s.to * a.channels + channel] = state;
  clear_gaps(a.table, segment, a.segments, a.tokens, a.h, channel, in);
}

template <class T>
__global__ void backward_kernel(GatedScanBackward<T> a, float* states, float* initial_part, float* bias_part) {
  __shared__ Maps maps;
  const int64_t segment = blockIdx.x, channel = int64_t{blockIdx.y} * 32 + threadIdx.x;
  const bool in = channel < a.channels;
  const int warp = threadIdx.y, warps = blockDim.y;
  const int64_t tile = int64_t{warps} * kSteps;
  const ScanSegment s = a.table[segment];
  const int64_t length = s.end > s.begin ? s.end - s.begin : 0, tiles = blocks_for(length, tile);
  float* my_states = states + first_tile(s.begin, segment, tile) * a.channels + channel;
  const float bias = a.gate_bias && in ? a.gate_bias[channel] : 0.0f;

  float state = s.from >= 0 && in ? a.initial[s.from * a.channels + channel] : 0.0f;
  for (int64_t i = 0; i < tiles; ++i) {
    if (warp == 0 && in) my_states[i * a.channels] = state;
    if (i + 1 == tiles) break;
    Inputs<T> inputs;
    inputs.load(a.x, a.gate, bias, s.begin + i * tile + warp * kSteps, s.end, channel, in);
    inputs.map(maps.a[warp][threadIdx.x], maps.b[warp][threadIdx.x]);
    __syncthreads();
    state = apply(maps, state, 0, warps);
    __syncthreads();
  }
  __syncthreads();

  // `flow` is what reaches a token's h from later tokens: flow_{t-1} = g_t (dh_t + flow_t).
  float flow = a.d_final && s.to >= 0 && in ? a.d_final[s.to * a.channels + channel] : 0.0f, d_bias = 0;
  for (int64_t i = tiles - 1; i >= 0; --i) {
    const int64_t first = s.begin + i * tile + warp * kSteps;
    Inputs<T> inputs;
    float dh[kSteps];
    load_steps(dh, a.d_h, first, s.end, in ? channel : 0);
    inputs.load(a.x, a.gate, bias, first, s.end, channel, in);
    inputs.map(maps.a[warp][threadIdx.x], maps.b[warp][threadIdx.x]);
    __syncthreads();
    float h[kSteps + 1];
    h[0] = apply(maps, in ? my_states[i * a.channels] : 0.0f, 0, warp);
#pragma unroll
    for (int j = 0; j < kSteps; ++j) h[j + 1] = inputs.g[j] * h[j] + (1 - inputs.g[j]) * inputs.x[j];
    __syncthreads();
    float to_a = 1, to_b = 0;
#pragma unroll
    for (int j = kSteps - 1; j >= 0; --j) {
      if (!in || first + j >= s.end) dh[j] = 0;
      to_a *= inputs.g[j];
      to_b = inputs.g[j] * (dh[j] + to_b);
    }
    // Stored from the last warp to the first, so that the order of application ascends.
    maps.a[warps - 1 - warp][threadIdx.x] = to_a;
    maps.b[warps - 1 - warp][threadIdx.x] = to_b;
    __syncthreads();
    float mine = apply(maps, flow, 0, warps - 1 - warp);
    flow = apply(maps, mine, warps - 1 - warp, warps);
    __syncthreads();
#pragma unroll
    for (int j = kSteps - 1; j >= 0; --j) {
      const float g = inputs.g[j], lambda = dh[j] + mine;
      mine = g * lambda;
      if (!in || first + j >= s.end) continue;
      const float d_gate = g * (1 - g) * lambda * (h[j] - inputs.x[j]);
      at(a.d_x, first + j)[channel] = from_float<T>((1 - g) * lambda);
      at(a.d_gate, first + j)[channel] = from_float<T>(d_gate);
      d_bias += d_gate;
    }
  }
  if (a.d_initial && s.from >= 0 && warp == 0 && in) initial_part[segment * a.channels + channel] = flow;
  clear_gaps(a.table, segment, a.segments, a.tokens, a.d_x, channel, in);
  clear_gaps(a.table, segment, a.segments, a.tokens, a.d_gate, channel, in);
  if (!bias_part) return;
  maps.a[warp][threadIdx.x] = d_bias;
  __syncthreads();
  if (warp != 0 || !in) return;
  float sum = 0;
  for (int w = 0; w < warps; ++w) sum += maps.a[w][threadIdx.x];
  bias_part[segment * a.channels + channel] = sum;
}

// Several segments may start from one row of `initial`: the first of them sums what all of them send there.
__global__ void initial_kernel(const ScanSegment* table, int64_t segments, int64_t channels, const float* part,
                               float* d_initial) {
  const int64_t segment = blockIdx.x, channel = int64_t{blockIdx.y} * blockDim.x + threadIdx.x;
  const int from = table[segment].from;
  if (from < 0 || channel >= channels) return;
  for (int64_t s = 0; s < segment; ++s) {
    if (table[s].from == from) return;
  }
  float sum = 0;
  for (int64_t s = segment; s < segments; ++s) {
    if (table[s].from == from) sum += part[s * channels + channel];
  }
  d_initial[from * channels + channel] = sum;
}

template <class T>
__global__ void clear_kernel(RowsRef<T> rows, int64_t tokens, int64_t channels) {
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < tokens * channels;
       i += int64_t{gridDim.x} * blockDim.x) {
    at(rows, i / channels)[i % channels] = from_float<T>(0);
  }
}

// Without segments every token is padding.
template <class T>
void clear(RowsRef<T> rows, int64_t tokens, int64_t channels, cudaStream_t stream) {
  if (tokens == 0) return;
  clear_kernel<<<strided_grid(tokens * channels, 256), 256, 0, stream>>>(rows, tokens, channels);
  check_launch("gated_scan (padding)");
}

template <class T>
void forward(const GatedScanForward<T>& a, void* stream_pointer) {
  if (a.channels == 0) return;
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  if (a.segments == 0) return clear(a.h, a.tokens, a.channels, stream);
  const dim3 grid(static_cast<unsigned>(a.segments), static_cast<unsigned>(blocks_for(a.channels, 32)));
  forward_kernel<<<grid, dim3(32, warps_for(a.tokens, a.segments)), 0, stream>>>(a);
  check_launch("gated_scan_forward");
}

template <class T>
void backward(const GatedScanBackward<T>& a, void* scratch, void* stream_pointer) {
  if (a.channels == 0) return;
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  if (a.segments == 0) {
    clear(a.d_x, a.tokens, a.channels, stream);
    clear(a.d_gate, a.tokens, a.channels, stream);
    if (a.d_gate_bias) zero_async(a.d_gate_bias, a.channels * 4, "gated_scan_backward", stream);
    return;
  }
  auto* states = static_cast<float*>(scratch);
  float* initial_part = states + tile_rows(a.tokens, a.segments) * a.channels;
  float* bias_part = a.d_gate_bias ? initial_part + a.segments * a.channels : nullptr;
  const dim3 grid(static_cast<unsigned>(a.segments), static_cast<unsigned>(blocks_for(a.channels, 32)));
  backward_kernel<<<grid, dim3(32, warps_for(a.tokens, a.segments)), 0, stream>>>(a, states, initial_part, bias_part);
  check_launch("gated_scan_backward");
  if (a.d_initial) {
    const dim3 initial_grid(static_cast<unsigned>(a.segments), static_cast<unsigned>(blocks_for(a.channels, 128)));
    initial_kernel<<<initial_grid, 128, 0, stream>>>(a.table, a.segments, a.channels, initial_part, a.d_initial);
    check_launch("gated_scan_backward (initial)");
  }
  if (bias_part) column_sum(bias_part, a.segments, a.channels, a.d_gate_bias, stream);
}

}  // namespace gated_scan_file

// An fp32 state for each tile of tokens; d_initial and d_gate_bias of each segment.
int64_t gated_scan_backward_scratch_bytes(int64_t tokens, int64_t channels, int64_t segments) {
  return (gated_scan_file::tile_rows(tokens, segments) + 2 * segments) * channels * 4;
}
void gated_scan_forward(const GatedScanForward<float>& a, void* stream) { gated_scan_file::forward(a, stream); }
void gated_scan_forward(const GatedScanForward<bf16>& a, void* stream) { gated_scan_file::forward(a, stream); }
void gated_scan_backward(const GatedScanBackward<float>& a, void* scratch, void* stream) {
  gated_scan_file::backward(a, scratch, stream);
}
void gated_scan_backward(const GatedScanBackward<bf16>& a, void* scratch, void* stream) {
  gated_scan_file::backward(a, scratch, stream);
}

}  // namespace rattan::kernels::cuda
