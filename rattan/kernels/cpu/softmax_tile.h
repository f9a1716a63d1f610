// The forward tile: up to 64 query rows of one head against blocks of up to 64 keys with the online softmax
// (FlashAttention, arXiv 2205.14135). Scores are kept transposed, [keys][queries], so that the softmax runs
// down the lanes without reductions across them.
#pragma once
#include "rattan/kernels/cpu/pack.h"

namespace rattan::kernels::RATTAN_ISA {

constexpr float minus_infinity = -__builtin_inff();

// Which keys of a block each query sees: lo[i] <= j < hi[i], relative to the block. Null: all of them.
struct Visible {
  const float* lo = nullptr;
  const float* hi = nullptr;
};

template <class T>
struct SoftmaxTile {
  using Unit = typename Product<T>::Unit;
  static constexpr int pair = Product<T>::pair;

  Widths<T> w;
  float scale;
  int64_t n = 0;            // lanes: query rows rounded up to W
  const Unit* q = nullptr;  // transposed form
  float* max;               // [n] running maximum of the scaled scores
  float* sum;               // [n] running sum of exp(score - max)
  float* out;               // [n][padded] running sum of exp(score - max) v
  float* scores;            // [keys][n]
  float* correction;        // [n]
  Unit* weights;            // [u(keys)][n], the same array as scores where pair is 1
  Unit* keys;               // rows form of the block
  Unit* values;             // stacked form of the block

  static size_t bytes(const Widths<T>& w) {
    return 3 * Scratch::size<float>(tile_rows) + Scratch::size<float>(tile_rows * w.padded) +
           Scratch::size<float>(tile_rows * tile_rows) +
           (pair == 2 ? Scratch::size<Unit>(tile_rows / 2 * tile_rows) : 0) +
           Scratch::size<Unit>(tile_rows * w.unit_row) + Scratch::size<Unit>(tile_rows / pair * w.padded);
  }
  SoftmaxTile(const Widths<T>& widths, float scale_of_scores, Scratch& scratch) : w(widths), scale(scale_of_scores) {
    max = scratch.take<float>(tile_rows);
    sum = scratch.take<float>(tile_rows);
    correction = scratch.take<float>(tile_rows);
    out = scratch.take<float>(tile_rows * w.padded);
    scores = scratch.take<float>(tile_rows * tile_rows);
    if constexpr (pair == 2) {
      weights = scratch.take<Unit>(tile_rows / 2 * tile_rows);
    } else {
      weights = scores;
    }
    keys = scratch.take<Unit>(tile_rows * w.unit_row);
    values = scratch.take<Unit>(tile_rows / pair * w.padded);
  }

  void start_empty() {
    for (int64_t i = 0; i < n; ++i) max[i] = minus_infinity, sum[i] = 0;
    std::memset(out, 0, static_cast<size_t>(n * w.padded) * sizeof(float));
  }

  // One block of n_keys <= 64 keys.
  void add(int64_t n_keys, const T* k, int64_t k_row, const T* v, int64_t v_row, Visible visible) {
    pack_block(w, n_keys, k, k_row, keys, static_cast<Unit*>(nullptr));
    pack_block(w, n_keys, v, v_row, static_cast<Unit*>(nullptr), values);
    gemm(n_keys, n, w.units, keys, w.unit_row, int64_t{1}, q, n, scores, n, false);
    for (int64_t c = 0; c < n; c += W) {
      if (visible.lo) hide(n_keys, c, visible);
      exponentiate(n_keys, c);
    }
    for (int64_t i = 0; i < n; ++i) {
      if (correction[i] == 1) continue;
      Vec factor = splat(correction[i]);
      for (int64_t c = 0; c < w.padded; c += W) store(out + i * w.padded + c, load(out + i * w.padded + c) * factor);
    }
    gemm(n, w.padded, (n_keys + pair - 1) / pair, weights, int64_t{1}, n, values, w.padded, out, w.padded, true);
  }

 private:
  void hide(int64_t n_keys, int64_t c, Visible visible) {
    Vec lo = load(visible.lo + c), hi = load(visible.hi + c), nothing = splat(minus_infinity);
    for (int64_t j = 0; j < n_keys; ++j) {
      Vec at = splat(static_cast<float>(j));
      float* s = scores + j * n + c;
      store(s, select(at < lo, nothing, select(at < hi, load(s), nothing)));
    }
  }

  void exponentiate(int64_t n_keys, int64_t c) {
    Vec factor = splat(scale), old = load(max + c), top = old;
    const float* s = scores + c;
    for (int64_t j = 0; j < n_keys; ++j) top = rattan::kernels::RATTAN_ISA::max(top, load(s + j * n) * factor);
    // A query that has seen nothing yet keeps -inf; subtracting 0 then gives exp(-inf) = 0.
    Vec base = select(top == splat(minus_infinity), zero(), top);
    Vec shrink = exp(old - base), total = load(sum + c) * shrink;
    store(max + c, top);
    store(correction + c, shrink);
    int64_t j = 0;
    if constexpr (pair == 2) {
#ifdef RATTAN_PAIRS
      for (; j < n_keys; j += 2) {
        Vec a = exp(load(s + j * n) * factor - base);
        Vec b = j + 1 < n_keys ? exp(load(s + (j + 1) * n) * factor - base) : zero();
        total += a + b;
        store(weights + j / 2 * n + c, interleave(a, b));
      }
#endif
    } else {
      for (; j < n_keys; ++j) {
        Vec a = exp(load(s + j * n) * factor - base);
        total += a;
        store(weights + j * n + c, a);
      }
    }
    store(sum + c, total);
  }
};

}  // namespace rattan::kernels::RATTAN_ISA
