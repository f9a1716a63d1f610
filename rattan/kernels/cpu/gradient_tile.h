// The backward tile: up to 64 query rows of one head against blocks of up to 64 keys. From the saved lse and
// delta = do·o it recomputes the probabilities and adds to the gradients of queries, keys and values:
//   P = exp(scale S - lse);  dV += P^T dO;  dS = scale P (dO V^T - delta);  dK += dS^T Q;  dQ += dS K.
#pragma once
#include "rattan/kernels/cpu/softmax_tile.h"

namespace rattan::kernels::RATTAN_ISA {

template <class T>
struct GradientTile {
  using Unit = typename Product<T>::Unit;
  static constexpr int pair = Product<T>::pair;

  Widths<T> w;
  float scale;
  int64_t n = 0;         // lanes: query rows rounded up to W
  QueryForms<T> q, d_o;  // both forms; rows beyond the tile's are zero
  float* lse;            // [n]; +inf where a lane holds no query
  float* delta;          // [n]
  float* dq;             // [n][padded], the caller clears it

  static size_t bytes(const Widths<T>& w) {
    return 2 * Scratch::size<float>(tile_rows) + Scratch::size<float>(tile_rows * w.padded) +
           2 * Scratch::size<float>(tile_rows * tile_rows) + 2 * Scratch::size<Unit>(tile_rows * w.unit_row) +
           (pair == 2
                ? Scratch::size<Unit>(tile_rows / 2 * w.padded) + 3 * Scratch::size<Unit>(tile_rows / 2 * tile_rows)
                : 0);
  }
  GradientTile(const Widths<T>& widths, float scale_of_scores, Scratch& scratch) : w(widths), scale(scale_of_scores) {
    lse = scratch.take<float>(tile_rows);
    delta = scratch.take<float>(tile_rows);
    dq = scratch.take<float>(tile_rows * w.padded);
    scores_ = scratch.take<float>(tile_rows * tile_rows);
    d_weights_ = scratch.take<float>(tile_rows * tile_rows);
    keys_ = scratch.take<Unit>(tile_rows * w.unit_row);
    values_ = scratch.take<Unit>(tile_rows * w.unit_row);
    if constexpr (pair == 2) {
      stacked_keys_ = scratch.take<Unit>(tile_rows / 2 * w.padded);
      weights_ = scratch.take<Unit>(tile_rows / 2 * tile_rows);
      d_scores_ = scratch.take<Unit>(tile_rows / 2 * tile_rows);
      stacked_d_scores_ = scratch.take<Unit>(tile_rows / 2 * tile_rows);
    } else {
      stacked_keys_ = keys_;
      weights_ = scores_;
      d_scores_ = stacked_d_scores_ = d_weights_;
    }
  }

  // One block of n_keys <= 64 keys; dk and dv [n_keys][padded] are added to.
  void add(int64_t n_keys, const T* k, int64_t k_row, const T* v, int64_t v_row, Visible visible, float* dk,
           float* dv) {
    pack_block(w, n_keys, k, k_row, keys_, pair == 2 ? stacked_keys_ : static_cast<Unit*>(nullptr));
    pack_block(w, n_keys, v, v_row, values_, static_cast<Unit*>(nullptr));
    gemm(n_keys, n, w.units, keys_, w.unit_row, int64_t{1}, q.transposed, n, scores_, n, false);
    gemm(n_keys, n, w.units, values_, w.unit_row, int64_t{1}, d_o.transposed, n, d_weights_, n, false);
    for (int64_t c = 0; c < n; c += W) differentiate(n_keys, c, visible);
    gemm(n_keys, w.padded, n / pair, weights_, n / pair, int64_t{1}, d_o.stacked, w.padded, dv, w.padded, true);
    gemm(n_keys, w.padded, n / pair, d_scores_, n / pair, int64_t{1}, q.stacked, w.padded, dk, w.padded, true);
    gemm(n, w.padded, (n_keys + pair - 1) / pair, stacked_d_scores_, int64_t{1}, n, stacked_keys_, w.padded, dq,
         w.padded, true);
  }

 private:
  struct Entry {
    Vec weight, d_score;
  };
  [[gnu::always_inline]] Entry entry(int64_t j, int64_t c, Visible visible, Vec lo, Vec hi, Vec norm, Vec mean) const {
    Vec weight = exp(fma(load(scores_ + j * n + c), splat(scale), -norm));
    if (visible.lo) {
      Vec at = splat(static_cast<float>(j));
      weight = select(at < lo, zero(), select(at < hi, weight, zero()));
    }
    return {weight, weight * splat(scale) * (load(d_weights_ + j * n + c) - mean)};
  }

  void differentiate(int64_t n_keys, int64_t c, Visible visible) {
    Vec lo = visible.lo ? load(visible.lo + c) : zero(), hi = visible.lo ? load(visible.hi + c) : zero();
    Vec norm = load(lse + c), mean = load(delta + c);
    if constexpr (pair == 2) {
#ifdef RATTAN_PAIRS
      bf16* weights = reinterpret_cast<bf16*>(weights_);
      bf16* d_scores = reinterpret_cast<bf16*>(d_scores_);
      for (int64_t j = 0; j < n_keys; j += 2) {
        Entry a = entry(j, c, visible, lo, hi, norm, mean), b{zero(), zero()};
        store(weights + j * n + c, a.weight);
        store(d_scores + j * n + c, a.d_score);
        if (j + 1 < n_keys) {
          b = entry(j + 1, c, visible, lo, hi, norm, mean);
          store(weights + (j + 1) * n + c, b.weight);
          store(d_scores + (j + 1) * n + c, b.d_score);
        }
        store(stacked_d_scores_ + j / 2 * n + c, interleave(a.d_score, b.d_score));
      }
#endif
    } else {
      for (int64_t j = 0; j < n_keys; ++j) {
        Entry a = entry(j, c, visible, lo, hi, norm, mean);
        store(weights_ + j * n + c, a.weight);
        store(d_scores_ + j * n + c, a.d_score);
      }
    }
  }

  float* scores_;     // [keys][n]
  float* d_weights_;  // [keys][n]
  Unit* keys_;        // rows forms of the block
  Unit* values_;
  Unit* stacked_keys_;
  Unit* weights_;           // [keys][u(n)]; scores_ where pair is 1
  Unit* d_scores_;          // [keys][u(n)]; d_weights_ where pair is 1
  Unit* stacked_d_scores_;  // [u(keys)][n]
};

}  // namespace rattan::kernels::RATTAN_ISA
