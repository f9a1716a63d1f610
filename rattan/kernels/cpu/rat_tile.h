// What forward and backward of RAT share: the columns of one head, the recurrence of a tile, the rotation.
#pragma once
#include <initializer_list>

#include "rattan/kernels/cpu/pack.h"
#include "rattan/kernels/cpu/rat_plan.h"
#include "rattan/kernels/rat.h"

namespace rattan::kernels::RATTAN_ISA {

static_assert(rat_tile_tokens == tile_rows);

// First columns of head h in a row of `proj`.
struct RatColumns {
  int64_t z, v, g, q, k;
  RatColumns(const RatShape& s, int64_t h) {
    int64_t width = s.heads * s.dim, group = h % s.groups;
    z = h * s.dim;
    v = width + z;
    g = 2 * width + z;
    q = 3 * width + group * s.dim;
    k = q + s.groups * s.dim;
  }
};

template <class T>
inline Vec load_lanes(const T* x, int64_t lanes) {
  return lanes >= W ? load(x) : load_n(x, lanes);
}
template <class T>
inline void store_lanes(T* x, Vec a, int64_t lanes) {
  if (lanes >= W) {
    store(x, a);
  } else {
    store_n(x, a, lanes);
  }
}

// Rotates x[dim] by the angles of one position (rotate-half form); `direction` -1 rotates back.
inline void rotate(float* x, int64_t half, const float* cos, const float* sin, float direction) {
  Vec sign = splat(direction);
  for (int64_t i = 0; i < half; i += W) {
    int64_t lanes = half - i;
    Vec c = load_lanes(cos + i, lanes), s = load_lanes(sin + i, lanes) * sign;
    Vec a = load_lanes(x + i, lanes), b = load_lanes(x + half + i, lanes);
    store_lanes(x + i, fnma(b, s, a * c), lanes);
    store_lanes(x + half + i, fma(a, s, b * c), lanes);
  }
}

// The state one head starts from: a row of the states buffer [states][2][heads][padded], or zeros.
struct RatStates {
  float* data = nullptr;
  int64_t heads = 0, padded = 0;
  float* k(int64_t row, int64_t h) const { return data + (row * 2 * heads + h) * padded; }
  float* v(int64_t row, int64_t h) const { return k(row, h) + heads * padded; }
};

// Row of the states buffer that precedes the given chunk in this tile, -1: zeros.
inline int64_t state_before(const RatPlan& plan, const RatTile& tile, int64_t chunk) {
  if (chunk == tile.chunk && tile.skip > 0) return plan.piece_state[chunk] + tile.skip / rat_tile_tokens - 1;
  return plan.start_state[chunk];
}

// Token rows of the given chunk that lie in this tile.
struct RatSpan {
  int64_t begin, end;
  RatSpan(const RatTile& tile, const RatChunk* table, int64_t chunk) {
    begin = table[chunk].begin + (chunk == tile.chunk ? tile.skip : 0);
    end = table[chunk].end;
    if (end - begin > tile.tokens) end = begin + tile.tokens;
  }
};

// Asks for columns of a run of token rows ahead of their use. A head touches two to four lines a row, rows lie
// kilobytes apart, and the processor's own prefetchers do not follow such a walk.
template <class T>
void prefetch_columns(const T* x, int64_t row, int64_t rows, int64_t dim) {
  constexpr int64_t line = 64 / static_cast<int64_t>(sizeof(T));
  for (int64_t i = 0; i < rows; ++i, x += row) {
    for (int64_t c = 0; c < dim; c += line) __builtin_prefetch(x + c, 0, 2);
    __builtin_prefetch(x + dim - 1, 0, 2);
  }
}

// Running keys and values of the tile's tokens, [tokens][padded], and the gates where `gate` is not null.
template <class T>
void run_recurrence(const RatShape& shape, const RatPlan& plan, const RatChunk* table, const RatTile& tile,
                    const RowsRef<const T>& proj, const float* gate_bias, const RatStates& states, int64_t h,
                    float* keys, float* values, float* gates) {
  int64_t padded = round_up(shape.dim, W);
  RatColumns at(shape, h);
  for (int64_t c = 0; c < shape.dim; c += W) {
    int64_t lanes = shape.dim - c, row = 0;
    Vec bias = load_lanes(gate_bias + at.z + c, lanes);
    for (int64_t j = tile.chunk; j < tile.chunk + tile.chunks; ++j) {
      int64_t before = state_before(plan, tile, j);
      Vec k = before < 0 ? zero() : load(states.k(before, h) + c);
      Vec v = before < 0 ? zero() : load(states.v(before, h) + c);
      RatSpan span(tile, table, j);
      for (int64_t i = span.begin; i < span.end; ++i, ++row) {
        const T* x = proj.at(i) + c;
        Vec g = sigmoid(load_lanes(x + at.g, lanes) + bias);
        Vec new_k = load_lanes(x + at.k, lanes), new_v = load_lanes(x + at.v, lanes);
        k = fma(g, k - new_k, new_k);
        v = fma(g, v - new_v, new_v);
        store(keys + row * padded + c, k);
        store(values + row * padded + c, v);
        if (gates) store(gates + row * padded + c, g);
      }
    }
  }
}

}  // namespace rattan::kernels::RATTAN_ISA
