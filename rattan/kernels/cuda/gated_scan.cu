// A block takes one segment and 32 channels and walks over it in tiles of up to 4 warps x 8 tokens. Each warp
// turns its 8 tokens into one affine map h -> A h + B, the maps before a warp are applied in order to the
// state at the start of the tile, and the warp then runs its tokens from there. Backward first walks forward
// to leave the state at the start of each tile in scratch, then walks the tiles in reverse.
//
// Where that makes too few blocks, segments are split into parts of equal length. A pass before turns each part into
// affine maps (of the state and, in backward, of what flows back), a short one applies them in order, and every part
// then starts from what reaches it.
#include "rattan/kernels/cuda/device.cuh"
#include "rattan/kernels/cuda/launch.h"
#include "rattan/kernels/gated_scan.h"

namespace rattan::kernels::cuda {

namespace gated_scan_file {

// Small blocks: while one waits for memory at a barrier, others of the multiprocessor work.
constexpr int kSteps = 8, kMaxWarps = 4;
constexpr int64_t kFewBlocks = 132 * 3, kManyBlocks = 132 * 16;  // for 132 multiprocessors
constexpr int64_t kLeastPart = 128;                              // tokens; a multiple of every tile

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

// Tokens of a part, a multiple of every tile; 0: segments stay whole. What is read again must be worth it.
int64_t part_length(int64_t tokens, int64_t channels, int64_t segments) {
  const int64_t columns = blocks_for(channels, 32);
  if (segments == 0 || segments * columns >= kFewBlocks) return 0;
  const int64_t length = blocks_for(blocks_for(tokens * columns, kManyBlocks), kLeastPart) * kLeastPart;
  return length < tokens / segments ? length : 0;
}

// Parts of segment s have the numbers from first_tile(begin, s, length) on; some numbers stay unused.
int64_t part_rows(int64_t tokens, int64_t segments, int64_t length) {
  return length > 0 ? tokens / length + segments + 1 : segments;
}

struct Part {
  int64_t segment, begin, end;  // end <= begin: nothing to do
  bool first;                   // of its segment
};

__device__ Part part_of(const ScanSegment* table, int64_t segments, int64_t number, int64_t length) {
  if (length == 0) return {number, table[number].begin, table[number].end, true};
  int64_t low = 0, high = segments;  // the last segment whose parts begin at or before `number`
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (first_tile(table[middle].begin, middle, length) <= number ? low : high) = middle;
  }
  const ScanSegment s = table[low];
  const int64_t index = number - first_tile(s.begin, low, length), begin = s.begin + index * length;
  if (index < 0) return {low, 0, 0, false};
  return {low, begin, begin + length < s.end ? begin + length : s.end, index == 0};
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

// What the passes over parts hand on, fp32 [parts, channels] each: the map h -> a h + b of a part and the state it
// starts from; in backward also flow -> a flow + back and the flow that enters from behind.
struct PartStates {
  int64_t length = 0;  // 0: segments are whole and the rest is not used
  float *a = nullptr, *b = nullptr, *start = nullptr, *back = nullptr, *flow = nullptr;

  PartStates(int64_t length, float* scratch, int64_t elements) : length(length) {
    if (length == 0) return;
    a = scratch, b = a + elements, start = b + elements, back = start + elements, flow = back + elements;
  }
};

// blockIdx.x: part, blockIdx.y: 32 channels; threadIdx.x: channel, threadIdx.y: warp. `d_h` may be missing.
template <class T>
__global__ void map_kernel(const ScanSegment* table, int64_t segments, int64_t channels, RowsRef<const T> x,
                           RowsRef<const T> gate, const float* gate_bias, RowsRef<const T> d_h, PartStates p) {
  __shared__ Maps maps, backs;
  const int64_t channel = int64_t{blockIdx.y} * 32 + threadIdx.x;
  const bool in = channel < channels;
  const int warp = threadIdx.y, warps = blockDim.y;
  const Part part = part_of(table, segments, blockIdx.x, p.length);
  const float bias = gate_bias && in ? gate_bias[channel] : 0.0f;
  float a = 1, b = 0, back = 0;  // of the tiles so far
  for (int64_t t0 = part.begin; t0 < part.end; t0 += int64_t{warps} * kSteps) {
    const int64_t first = t0 + warp * kSteps;
    Inputs<T> inputs;
    float dh[kSteps];
    if (d_h.data) load_steps(dh, d_h, first, part.end, in ? channel : 0);
    inputs.load(x, gate, bias, first, part.end, channel, in);
    inputs.map(maps.a[warp][threadIdx.x], maps.b[warp][threadIdx.x]);
    if (d_h.data) {
      float to_b = 0;
#pragma unroll
      for (int j = kSteps - 1; j >= 0; --j) to_b = inputs.g[j] * ((in && first + j < part.end ? dh[j] : 0) + to_b);
      backs.b[warp][threadIdx.x] = to_b;
    }
    __syncthreads();
    for (int w = 0; w < warps; ++w) {
      if (d_h.data) back += a * backs.b[w][threadIdx.x];
      a *= maps.a[w][threadIdx.x];
      b = maps.a[w][threadIdx.x] * b + maps.b[w][threadIdx.x];
    }
    __syncthreads();
  }
  if (warp != 0 || !in) return;
  const int64_t place = int64_t{blockIdx.x} * channels + channel;
  p.a[place] = a, p.b[place] = b;
  if (d_h.data) p.back[place] = back;
}

// One thread a segment and channel applies the maps of the parts in order. `initial`, `final`, `d_final` and
// `initial_part` as in the kernels below, each may be missing; `final` may be `initial`.
__global__ void carry_kernel(const ScanSegment* table, int64_t channels, const float* initial, float* final,
                             const float* d_final, float* initial_part, bool backward, PartStates p) {
  const int64_t segment = blockIdx.x, channel = int64_t{blockIdx.y} * blockDim.x + threadIdx.x;
  if (channel >= channels) return;
  const ScanSegment s = table[segment];
  const int64_t parts = s.end > s.begin ? blocks_for(s.end - s.begin, p.length) : 0;
  const int64_t place = first_tile(s.begin, segment, p.length) * channels + channel;
  float state = s.from >= 0 ? initial[s.from * channels + channel] : 0.0f;
  for (int64_t i = 0; i < parts; ++i) {
    p.start[place + i * channels] = state;
    state = p.a[place + i * channels] * state + p.b[place + i * channels];
  }
  if (final && s.to >= 0) final[s.to * channels + channel] = state;
  if (!backward) return;
  float flow = d_final && s.to >= 0 ? d_final[s.to * channels + channel] : 0.0f;
  for (int64_t i = parts - 1; i >= 0; --i) {
    p.flow[place + i * channels] = flow;
    flow = p.a[place + i * channels] * flow + p.back[place + i * channels];
  }
  if (initial_part && s.from >= 0) initial_part[segment * channels + channel] = flow;
}

// blockIdx and threadIdx as above.
template <class T, bool kSplit>
__global__ void forward_kernel(GatedScanForward<T> a, PartStates p) {
  __shared__ Maps maps;
  const int64_t channel = int64_t{blockIdx.y} * 32 + threadIdx.x;
  const bool in = channel < a.channels;
  const int warp = threadIdx.y, warps = blockDim.y;
  const Part part = part_of(a.table, a.segments, blockIdx.x, kSplit ? p.length : 0);
  const ScanSegment s = a.table[part.segment];
  const float bias = a.gate_bias && in ? a.gate_bias[channel] : 0.0f;
  float state = 0;
  if (kSplit) {
    if (in && part.begin < part.end) state = p.start[int64_t{blockIdx.x} * a.channels + channel];
  } else if (s.from >= 0 && in) {
    state = a.initial[s.from * a.channels + channel];
  }
  for (int64_t t0 = part.begin; t0 < part.end; t0 += int64_t{warps} * kSteps) {
    const int64_t first = t0 + warp * kSteps;
    Inputs<T> inputs;
    inputs.load(a.x, a.gate, bias, first, part.end, channel, in);
    inputs.map(maps.a[warp][threadIdx.x], maps.b[warp][threadIdx.x]);
    __syncthreads();
    float h = apply(maps, state, 0, warp);
    state = apply(maps, h, warp, warps);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      h = inputs.g[i] * h + (1 - inputs.g[i]) * inputs.x[i];
      if (in && first + i < part.end) at(a.h, first + i)[channel] = from_float<T>(h);
    }
  }
  __syncthreads();  // every warp has read `initial`, which `final` may be
  if (!kSplit && s.to >= 0 && warp == 0 && in) a.final[s.to * a.channels + channel] = state;
  if (part.first) clear_gaps(a.table, part.segment, a.segments, a.tokens, a.h, channel, in);
}

template <class T, bool kSplit>
__global__ void backward_kernel(GatedScanBackward<T> a, float* states, float* initial_part, float* bias_part,
                                PartStates p) {
  __shared__ Maps maps;
  const int64_t channel = int64_t{blockIdx.y} * 32 + threadIdx.x, place = int64_t{blockIdx.x} * a.channels + channel;
  const bool in = channel < a.channels;
  const int warp = threadIdx.y, warps = blockDim.y;
  const int64_t tile = int64_t{warps} * kSteps;
  const Part part = part_of(a.table, a.segments, blockIdx.x, kSplit ? p.length : 0);
  const ScanSegment s = a.table[part.segment];
  const int64_t length = part.end > part.begin ? part.end - part.begin : 0, tiles = blocks_for(length, tile);
  const int64_t tile_row = first_tile(s.begin, part.segment, tile) + (part.begin - s.begin) / tile;
  float* my_states = states + tile_row * a.channels + channel;
  const float bias = a.gate_bias && in ? a.gate_bias[channel] : 0.0f;

  // `flow` is what reaches a token's h from later tokens: flow_{t-1} = g_t (dh_t + flow_t).
  float state = 0, flow = 0, d_bias = 0;
  if (kSplit) {
    if (in && length > 0) state = p.start[place], flow = p.flow[place];
  } else if (in) {
    if (s.from >= 0) state = a.initial[s.from * a.channels + channel];
    if (a.d_final && s.to >= 0) flow = a.d_final[s.to * a.channels + channel];
  }
  for (int64_t i = 0; i < tiles; ++i) {
    if (warp == 0 && in) my_states[i * a.channels] = state;
    if (i + 1 == tiles) break;
    Inputs<T> inputs;
    inputs.load(a.x, a.gate, bias, part.begin + i * tile + warp * kSteps, part.end, channel, in);
    inputs.map(maps.a[warp][threadIdx.x], maps.b[warp][threadIdx.x]);
    __syncthreads();
    state = apply(maps, state, 0, warps);
    __syncthreads();
  }
  __syncthreads();

  for (int64_t i = tiles - 1; i >= 0; --i) {
    const int64_t first = part.begin + i * tile + warp * kSteps;
    Inputs<T> inputs;
    float dh[kSteps];
    load_steps(dh, a.d_h, first, part.end, in ? channel : 0);
    inputs.load(a.x, a.gate, bias, first, part.end, channel, in);
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
      if (!in || first + j >= part.end) dh[j] = 0;
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
      if (!in || first + j >= part.end) continue;
      const float d_gate = g * (1 - g) * lambda * (h[j] - inputs.x[j]);
      at(a.d_x, first + j)[channel] = from_float<T>((1 - g) * lambda);
      at(a.d_gate, first + j)[channel] = from_float<T>(d_gate);
      d_bias += d_gate;
    }
  }
  if (!kSplit && a.d_initial && s.from >= 0 && warp == 0 && in) initial_part[place] = flow;
  if (part.first) {
    clear_gaps(a.table, part.segment, a.segments, a.tokens, a.d_x, channel, in);
    clear_gaps(a.table, part.segment, a.segments, a.tokens, a.d_gate, channel, in);
  }
  if (!bias_part) return;
  maps.a[warp][threadIdx.x] = d_bias;
  __syncthreads();
  if (warp != 0 || !in) return;
  float sum = 0;
  for (int w = 0; w < warps; ++w) sum += maps.a[w][threadIdx.x];
  bias_part[place] = sum;
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

dim3 column_grid(int64_t rows, int64_t channels, int64_t per_block) {
  return dim3(static_cast<unsigned>(rows), static_cast<unsigned>(blocks_for(channels, per_block)));
}

template <class T>
void forward(const GatedScanForward<T>& a, void* scratch, void* stream_pointer) {
  if (a.channels == 0) return;
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  if (a.segments == 0) return clear(a.h, a.tokens, a.channels, stream);
  const int64_t length = part_length(a.tokens, a.channels, a.segments), parts = part_rows(a.tokens, a.segments, length);
  const PartStates p(length, static_cast<float*>(scratch), parts * a.channels);
  const dim3 grid = column_grid(parts, a.channels, 32), threads(32, warps_for(a.tokens, a.segments));
  if (length > 0) {
    map_kernel<<<grid, threads, 0, stream>>>(a.table, a.segments, a.channels, a.x, a.gate, a.gate_bias,
                                             RowsRef<const T>{}, p);
    check_launch("gated_scan_forward (parts)");
    carry_kernel<<<column_grid(a.segments, a.channels, 128), 128, 0, stream>>>(a.table, a.channels, a.initial, a.final,
                                                                               nullptr, nullptr, false, p);
    check_launch("gated_scan_forward (carry)");
  }
  (length > 0 ? forward_kernel<T, true> : forward_kernel<T, false>)<<<grid, threads, 0, stream>>>(a, p);
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
  const int64_t length = part_length(a.tokens, a.channels, a.segments), parts = part_rows(a.tokens, a.segments, length);
  auto* states = static_cast<float*>(scratch);
  float* initial_part = states + tile_rows(a.tokens, a.segments) * a.channels;
  float* bias_rows = initial_part + a.segments * a.channels;
  float* bias_part = a.d_gate_bias ? bias_rows : nullptr;
  const PartStates p(length, bias_rows + parts * a.channels, parts * a.channels);
  const dim3 grid = column_grid(parts, a.channels, 32), threads(32, warps_for(a.tokens, a.segments));
  if (length > 0) {
    map_kernel<<<grid, threads, 0, stream>>>(a.table, a.segments, a.channels, a.x, a.gate, a.gate_bias, a.d_h, p);
    check_launch("gated_scan_backward (parts)");
    carry_kernel<<<column_grid(a.segments, a.channels, 128), 128, 0, stream>>>(
        a.table, a.channels, a.initial, nullptr, a.d_final, a.d_initial ? initial_part : nullptr, true, p);
    check_launch("gated_scan_backward (carry)");
  }
  (length > 0 ? backward_kernel<T, true> : backward_kernel<T, false>)<<<grid, threads, 0, stream>>>(
      a, states, initial_part, bias_part, p);
  check_launch("gated_scan_backward");
  if (a.d_initial) {
    initial_kernel<<<column_grid(a.segments, a.channels, 128), 128, 0, stream>>>(a.table, a.segments, a.channels,
                                                                                 initial_part, a.d_initial);
    check_launch("gated_scan_backward (initial)");
  }
  if (bias_part) column_sum(bias_part, parts, a.channels, a.d_gate_bias, stream);
}

}  // namespace gated_scan_file

// Where segments are split: two maps and a starting state of each part.
int64_t gated_scan_forward_scratch_bytes(int64_t tokens, int64_t channels, int64_t segments) {
  using namespace gated_scan_file;
  const int64_t length = part_length(tokens, channels, segments);
  return length > 0 ? 3 * part_rows(tokens, segments, length) * channels * 4 : 0;
}
// An fp32 state for each tile of tokens; d_initial of each segment, d_gate_bias of each part; where segments are split,
// three maps and two starting states of each part.
int64_t gated_scan_backward_scratch_bytes(int64_t tokens, int64_t channels, int64_t segments) {
  using namespace gated_scan_file;
  const int64_t length = part_length(tokens, channels, segments), parts = part_rows(tokens, segments, length);
  return (tile_rows(tokens, segments) + segments + parts + (length > 0 ? 5 * parts : 0)) * channels * 4;
}
void gated_scan_forward(const GatedScanForward<float>& a, void* scratch, void* stream) {
  gated_scan_file::forward(a, scratch, stream);
}
void gated_scan_forward(const GatedScanForward<bf16>& a, void* scratch, void* stream) {
  gated_scan_file::forward(a, scratch, stream);
}
void gated_scan_backward(const GatedScanBackward<float>& a, void* scratch, void* stream) {
  gated_scan_file::backward(a, scratch, stream);
}
void gated_scan_backward(const GatedScanBackward<bf16>& a, void* scratch, void* stream) {
  gated_scan_file::backward(a, scratch, stream);
}

}  // namespace rattan::kernels::cuda
