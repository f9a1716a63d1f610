#include "rattan/kernels/gated_scan.h"

#include "rattan/base/parallel.h"
#include "rattan/kernels/cpu/lanes.h"
#include "rattan/kernels/cpu/scan_plan.h"
#include "rattan/kernels/cpu/scratch.h"

namespace rattan::kernels::RATTAN_ISA {
namespace gated_scan_file {

// A task is a group of segments on a block of channels; the state of the block lives in the first-level cache.
constexpr int64_t tokens_per_group = 256;
// Backward recomputes h in blocks of this many tokens, from a checkpoint before each.
constexpr int64_t block_tokens = 16;
// A block has at most `block_channels`; narrower ones if there would be fewer than `enough_tasks`.
constexpr int64_t block_channels = 256, least_channels = 64, enough_tasks = 4;

inline int64_t width_of_block(int64_t groups, int64_t channels) {
  int64_t width = block_channels;
  while (width > least_channels && groups * ceil_div(channels, width) < enough_tasks) width /= 2;
  return width;
}

// A block of channels takes a short piece out of each row, and rows lie pages apart: too irregular for the
// processor's own prefetching, so the rows needed soon are asked for.
constexpr int64_t ahead = 8;

template <class T>
inline void prefetch(const T* p, int64_t n) {
  for (int64_t i = 0; i < n; i += 64 / static_cast<int64_t>(sizeof(T))) __builtin_prefetch(p + i);
}

struct Gate {
  Vec keep, take;  // g and 1 - g
};

// 1 - g is computed without cancellation: where g is near 1, states and gradients are sums over about 1 / (1 - g)
// tokens, and an error of 1 - g is one of theirs.
inline Gate gate_of(Vec z) {
  Vec e = exp(-max(splat(-80.0f), z));
  Vec g = splat(1.0f) / (splat(1.0f) + e);
  return {g, e * g};
}

// The block of channels [begin, begin + n) and what is fixed along it.
struct Block {
  int64_t begin, n;
  alignas(64) float bias[block_channels];

  Block(int64_t index, int64_t width, int64_t channels, const float* gate_bias) : begin(index * width) {
    n = channels - begin < width ? channels - begin : width;
    for_lanes(n,
              [&](int64_t i, auto part) { store(bias + i, gate_bias ? load(gate_bias + begin + i, part) : zero()); });
  }
};

template <class Args>
void load_initial(const Args& a, const ScanSegment& segment, const Block& block, float* h) {
  const float* from = segment.from >= 0 ? a.initial + segment.from * a.channels + block.begin : nullptr;
  for_lanes(block.n, [&](int64_t i, auto part) { store(h + i, from ? load(from + i, part) : zero()); });
}

template <class Args>
inline void prefetch_inputs(const Args& a, const Block& block, int64_t t) {
  prefetch(a.x.at(t) + block.begin, block.n);
  prefetch(a.gate.at(t) + block.begin, block.n);
}

template <class Args>
inline Vec step(const Args& a, const Block& block, int64_t t, int64_t i, auto part, Vec h) {
  Vec x = load(a.x.at(t) + block.begin + i, part);
  Gate g = gate_of(load(a.gate.at(t) + block.begin + i, part) + load(block.bias + i));
  return fma(g.keep, h, g.take * x);
}

// Rows outside the segments of a group, from the end of the group before: calls segment(s) and gap(begin, end).
template <class OnSegment, class OnGap>
void walk_group(const ScanSegment* table, int64_t tokens, const int64_t* first, int64_t group, int64_t groups,
                OnSegment&& on_segment, OnGap&& on_gap) {
  int64_t at = group == 0 ? 0 : table[first[group]].begin;
  for (int64_t s = first[group]; s < first[group + 1]; ++s) {
    if (at < table[s].begin) on_gap(at, table[s].begin);
    on_segment(s);
    at = table[s].end;
  }
  int64_t end = group + 1 == groups ? tokens : table[first[group + 1]].begin;
  if (at < end) on_gap(at, end);
}

template <class T>
void clear(RowsRef<T> out, const Block& block, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) fill_zero(out.at(t) + block.begin, block.n);
}

template <class T>
void forward_segment(const GatedScanForward<T>& a, const ScanSegment& segment, const Block& block) {
  alignas(64) float h[block_channels];
  load_initial(a, segment, block, h);
  for (int64_t t = segment.begin; t < segment.end; ++t) {
    if (t + ahead < a.tokens) prefetch_inputs(a, block, t + ahead);
    T* out = a.h.at(t) + block.begin;
    for_lanes(block.n, [&](int64_t i, auto part) {
      Vec next = step(a, block, t, i, part, load(h + i));
      store(h + i, next);
      store(out + i, next, part);
    });
  }
  if (segment.to < 0) return;
  float* to = a.final + segment.to * a.channels + block.begin;
  for_lanes(block.n, [&](int64_t i, auto part) { store(to + i, load(h + i), part); });
}

template <class T>
void forward(const GatedScanForward<T>& a) {
  Scratch scratch(Scratch::size<int64_t>(a.segments + 2));
  int64_t* first = scratch.take<int64_t>(a.segments + 2);
  int64_t groups = group_segments(a.table, a.segments, tokens_per_group, first);
  int64_t width = width_of_block(groups, a.channels), blocks = ceil_div(a.channels, width);
  parallel_for(groups * blocks, [&](int64_t task) {
    Block block(task % blocks, width, a.channels, a.gate_bias);
    walk_group(
        a.table, a.tokens, first, task / blocks, groups, [&](int64_t s) { forward_segment(a, a.table[s], block); },
        [&](int64_t begin, int64_t end) { clear(a.h, block, begin, end); });
  });
}

// What the reverse sweep over one block of tokens needs: h_{t-1} - x_t, and 1 - g.
struct Recomputed {
  alignas(64) float change[block_tokens * block_channels];
  alignas(64) float take[block_tokens * block_channels];
};

template <class T>
void recompute(const GatedScanBackward<T>& a, const Block& block, int64_t begin, int64_t end, float* h,
               Recomputed& out) {
  for (int64_t t = begin; t < end; ++t) {
    if (t - block_tokens >= 0) prefetch_inputs(a, block, t - block_tokens);  // for the block that comes next
    float* change = out.change + (t - begin) * block_channels;
    float* take = out.take + (t - begin) * block_channels;
    for_lanes(block.n, [&](int64_t i, auto part) {
      Vec state = load(h + i), x = load(a.x.at(t) + block.begin + i, part);
      Gate g = gate_of(load(a.gate.at(t) + block.begin + i, part) + load(block.bias + i));
      store(change + i, state - x);
      store(take + i, g.take);
      store(h + i, fma(g.keep, state, g.take * x));
    });
  }
}

template <class T>
void sweep_back(const GatedScanBackward<T>& a, const Block& block, int64_t begin, int64_t end, const Recomputed& in,
                float* lambda, float* d_bias) {
  for (int64_t t = end - 1; t >= begin; --t) {
    const float* change = in.change + (t - begin) * block_channels;
    const float* take = in.take + (t - begin) * block_channels;
    const T* d_h = a.d_h.at(t) + block.begin;
    if (t >= ahead) prefetch(a.d_h.at(t - ahead) + block.begin, block.n);
    T *d_x = a.d_x.at(t) + block.begin, *d_gate = a.d_gate.at(t) + block.begin;
    for_lanes(block.n, [&](int64_t i, auto part) {
      Vec lam = load(lambda + i) + load(d_h + i, part);
      Vec rest = load(take + i), g = splat(1.0f) - rest;
      Vec dx = rest * lam, g_lam = g * lam;
      Vec dg = g * dx * load(change + i);
      store(d_x + i, dx, part);
      store(d_gate + i, dg, part);
      store(d_bias + i, load(d_bias + i) + dg);
      store(lambda + i, g_lam);
    });
  }
}

// `d_initial` receives the gradient of the initial state of this block's channels, if not null.
template <class T>
void backward_segment(const GatedScanBackward<T>& a, const ScanSegment& segment, const Block& block, float* d_bias,
                      float* d_initial) {
  int64_t pieces = ceil_div(segment.end - segment.begin, block_tokens);
  int64_t width = round_up(block.n, W);
  Scratch scratch(Scratch::size<float>(pieces * width));
  float* checkpoints = scratch.take<float>(pieces * width);
  alignas(64) float h[block_channels];
  load_initial(a, segment, block, h);
  for (int64_t p = 0; p < pieces; ++p) {
    int64_t begin = segment.begin + p * block_tokens, end = begin + block_tokens;
    for_lanes(block.n, [&](int64_t i, auto) { store(checkpoints + p * width + i, load(h + i)); });
    if (p + 1 == pieces) break;
    for (int64_t t = begin; t < end; ++t) {
      if (t + ahead < a.tokens) prefetch_inputs(a, block, t + ahead);
      for_lanes(block.n, [&](int64_t i, auto part) { store(h + i, step(a, block, t, i, part, load(h + i))); });
    }
  }
  alignas(64) float lambda[block_channels];
  const float* d_final = segment.to >= 0 && a.d_final ? a.d_final + segment.to * a.channels + block.begin : nullptr;
  for_lanes(block.n, [&](int64_t i, auto part) { store(lambda + i, d_final ? load(d_final + i, part) : zero()); });
  Recomputed recomputed;
  for (int64_t p = pieces - 1; p >= 0; --p) {
    int64_t begin = segment.begin + p * block_tokens;
    int64_t end = begin + block_tokens < segment.end ? begin + block_tokens : segment.end;
    recompute(a, block, begin, end, checkpoints + p * width, recomputed);
    sweep_back(a, block, begin, end, recomputed, lambda, d_bias);
  }
  if (d_initial) for_lanes(block.n, [&](int64_t i, auto part) { store(d_initial + i, load(lambda + i), part); });
}

inline void add_row(float* to, const float* from, int64_t n) {
  for_lanes(n, [&](int64_t i, auto part) { store(to + i, load(to + i, part) + load(from + i, part), part); });
}

template <class T>
void backward(const GatedScanBackward<T>& a) {
  bool wants_initial = a.d_initial != nullptr;
  bool shared = wants_initial && share_initial_rows(a.table, a.segments);
  int64_t shared_size = shared ? a.segments * a.channels : 0;
  Scratch plan(Scratch::size<int64_t>(a.segments + 2));
  int64_t* first = plan.take<int64_t>(a.segments + 2);
  int64_t groups = group_segments(a.table, a.segments, tokens_per_group, first);
  int64_t width = width_of_block(groups, a.channels), blocks = ceil_div(a.channels, width), padded = blocks * width;
  Scratch scratch(Scratch::size<float>(groups * padded) + Scratch::size<float>(shared_size));
  float* bias_of_group = scratch.take<float>(groups * padded);
  float* initial_of_segment = scratch.take<float>(shared_size);
  parallel_for(groups * blocks, [&](int64_t task) {
    int64_t group = task / blocks;
    Block block(task % blocks, width, a.channels, a.gate_bias);
    float* d_bias = bias_of_group + group * padded + block.begin;
    fill_zero(d_bias, width);
    walk_group(
        a.table, a.tokens, first, group, groups,
        [&](int64_t s) {
          float* d_initial = nullptr;
          if (wants_initial && a.table[s].from >= 0) {
            float* row = shared ? initial_of_segment + s * a.channels : a.d_initial + a.table[s].from * a.channels;
            d_initial = row + block.begin;
          }
          backward_segment(a, a.table[s], block, d_bias, d_initial);
        },
        [&](int64_t begin, int64_t end) {
          clear(a.d_x, block, begin, end);
          clear(a.d_gate, block, begin, end);
        });
  });
  if (a.d_gate_bias) {
    fill_zero(a.d_gate_bias, a.channels);
    for (int64_t g = 0; g < groups; ++g) add_row(a.d_gate_bias, bias_of_group + g * padded, a.channels);
  }
  if (!shared) return;
  for (int64_t s = 0; s < a.segments; ++s) {
    if (a.table[s].from >= 0) fill_zero(a.d_initial + a.table[s].from * a.channels, a.channels);
  }
  for (int64_t s = 0; s < a.segments; ++s) {
    if (a.table[s].from < 0) continue;
    add_row(a.d_initial + a.table[s].from * a.channels, initial_of_segment + s * a.channels, a.channels);
  }
}

}  // namespace gated_scan_file

void gated_scan_forward(const GatedScanForward<float>& a) { gated_scan_file::forward(a); }
void gated_scan_forward(const GatedScanForward<bf16>& a) { gated_scan_file::forward(a); }
void gated_scan_backward(const GatedScanBackward<float>& a) { gated_scan_file::backward(a); }
void gated_scan_backward(const GatedScanBackward<bf16>& a) { gated_scan_file::backward(a); }

}  // namespace rattan::kernels::RATTAN_ISA
