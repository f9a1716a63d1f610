// Forms in which tiles enter the products of gemm.h. With u = units along a dimension (n, or ceil(n / 2) pairs):
//   rows        [n][u(dim)]      pairs along dim     operand A of products summed over dim
//   stacked     [u(n)][dim]      pairs along rows    operand B of products summed over the rows
//   transposed  [u(dim)][n]      pairs along dim     operand B of products summed over dim
// Columns are padded with zeros to a multiple of W, summed dimensions to whole units. For float, rows and
// stacked are the same array.
#pragma once
#include "rattan/kernels/cpu/gemm.h"
#include "rattan/kernels/cpu/scratch.h"

namespace rattan::kernels::RATTAN_ISA {

constexpr int tile_rows = 64;  // query rows of a tile; also the key rows of a block

// Sizes of one head's vectors in units of T's products.
template <class T>
struct Widths {
  static constexpr int pair = Product<T>::pair;
  int64_t dim;       // p
  int64_t padded;    // p rounded up to vectors: row length of fp32 and stacked tiles
  int64_t units;     // summed length over p
  int64_t unit_row;  // row length of the rows form
  explicit Widths(int64_t p)
      : dim(p), padded(round_up(p, W)), units((p + pair - 1) / pair), unit_row(round_up((p + pair - 1) / pair, W)) {}
};

// ---- from fp32 tiles [n][padded] whose columns beyond dim are zero -------------------------------------------

// rows of padded floats to the rows form
inline void pack_rows(const Widths<float>& w, int64_t n, const float* x, float* out) {
  std::memcpy(out, x, static_cast<size_t>(n * w.padded) * sizeof(float));
}

// to the transposed form; n is a multiple of W; `work` holds n * unit_row units
inline void pack_transposed(int64_t padded, int64_t n, const float* x, float* out) {
  for (int64_t c = 0; c < padded; c += W) {
    for (int64_t r = 0; r < n; r += W) transpose_block(x + r * padded + c, padded, out + c * n + r, n);
  }
}

#ifdef RATTAN_PAIRS
inline void pack_rows(const Widths<bf16>& w, int64_t n, const float* x, Pair* out) {
  for (int64_t r = 0; r < n; ++r) {
    bf16* row = reinterpret_cast<bf16*>(out + r * w.unit_row);
    int64_t c = 0;
    for (; c < w.padded; c += W) store(row + c, load(x + r * w.padded + c));
    for (; c < 2 * w.unit_row; c += W) store(row + c, zero());
  }
}

inline void pack_stacked(int64_t padded, int64_t n, const float* x, Pair* out) {
  for (int64_t r = 0; r < n; r += 2) {
    const float* low = x + r * padded;
    for (int64_t c = 0; c < padded; c += W) {
      store(out + r / 2 * padded + c, interleave(load(low + c), r + 1 < n ? load(low + padded + c) : zero()));
    }
  }
}

inline void transpose_units(int64_t n, int64_t unit_row, const Pair* x, Pair* out) {
  const float* in = reinterpret_cast<const float*>(x);
  float* to = reinterpret_cast<float*>(out);
  for (int64_t c = 0; c < unit_row; c += W) {
    for (int64_t r = 0; r < n; r += W) transpose_block(in + r * unit_row + c, unit_row, to + c * n + r, n);
  }
}
#endif

// The transposed and, where asked for, the stacked form of a query tile. For float the tile itself is stacked.
template <class T>
struct QueryForms {
  using Unit = typename Product<T>::Unit;
  Unit* transposed;     // [unit_row][n]
  const Unit* stacked;  // [u(n)][padded]
};

template <class T>
struct QueryPacker {
  using Unit = typename Product<T>::Unit;
  Widths<T> w;
  Unit* rows = nullptr;  // work
  Unit* transposed = nullptr;
  Unit* stacked = nullptr;

  static size_t bytes(const Widths<T>& w, bool with_stacked) {
    size_t form = Scratch::size<Unit>(tile_rows * w.unit_row);
    if (Product<T>::pair == 1) return form;
    return 2 * form + (with_stacked ? Scratch::size<Unit>(tile_rows / 2 * w.padded) : 0);
  }
  QueryPacker(const Widths<T>& widths, Scratch& scratch, bool with_stacked) : w(widths) {
    transposed = scratch.take<Unit>(tile_rows * w.unit_row);
    if (Product<T>::pair == 2) {
      rows = scratch.take<Unit>(tile_rows * w.unit_row);
      if (with_stacked) stacked = scratch.take<Unit>(tile_rows / 2 * w.padded);
    }
  }
  // n is a multiple of W.
  QueryForms<T> pack(int64_t n, const float* x) {
    if constexpr (Product<T>::pair == 1) {
      pack_transposed(w.padded, n, x, transposed);
      return {transposed, x};
    } else {
#ifdef RATTAN_PAIRS
      pack_rows(w, n, x, rows);
      transpose_units(n, w.unit_row, rows, transposed);
      if (stacked) pack_stacked(w.padded, n, x, stacked);
#endif
      return {transposed, stacked};
    }
  }
};

// ---- key and value blocks from memory of type T ------------------------------------------------------------

template <class T>
inline void load_row(const T* x, int64_t dim, int64_t padded, float* out) {
  int64_t c = 0;
  for (; c + W <= dim; c += W) store(out + c, load(x + c));
  if (c < padded) store(out + c, load_n(x + c, dim - c));
}

template <class T>
inline void store_row(const float* x, int64_t dim, T* out) {
  int64_t c = 0;
  for (; c + W <= dim; c += W) store(out + c, load(x + c));
  if (c < dim) store_n(out + c, load(x + c), dim - c);
}

// Block of n rows of keys or values in the forms asked for; null: not needed. `stacked` and `rows` may be the
// same array where pair is 1.
template <class T>
inline void pack_block(const Widths<T>& w, int64_t n, const T* x, int64_t row, float* rows, float* stacked) {
  float* out = rows ? rows : stacked;
  for (int64_t r = 0; r < n; ++r) load_row(x + r * row, w.dim, w.padded, out + r * w.padded);
}

#ifdef RATTAN_PAIRS
inline __m512i load_words(const bf16* x, int64_t n) {
  return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first_lanes(n).m, x));
}
inline void pack_block(const Widths<bf16>& w, int64_t n, const bf16* x, int64_t row, Pair* rows, Pair* stacked) {
  if (rows) {
    for (int64_t r = 0; r < n; ++r) {
      const bf16* from = x + r * row;
      bf16* to = reinterpret_cast<bf16*>(rows + r * w.unit_row);
      int64_t c = 0;
      for (; c + 32 <= w.dim; c += 32) _mm512_storeu_si512(to + c, _mm512_loadu_si512(from + c));
      for (; c < 2 * w.unit_row; c += 32) {
        int64_t left = w.dim - c;
        _mm512_storeu_si512(to + c, _mm512_maskz_loadu_epi16(left <= 0 ? 0u : (1u << left) - 1, from + c));
      }
    }
  }
  if (stacked) {
    for (int64_t r = 0; r < n; r += 2) {
      const bf16* low = x + r * row;
      const bf16* high = low + row;
      for (int64_t c = 0; c < w.padded; c += W) {
        int64_t lanes = w.dim - c < W ? w.dim - c : W;
        __m512i a = load_words(low + c, lanes);
        __m512i b = r + 1 < n ? _mm512_slli_epi32(load_words(high + c, lanes), 16) : _mm512_setzero_si512();
        store(stacked + r / 2 * w.padded + c, PairVec{_mm512_or_si512(a, b)});
      }
    }
  }
}
#endif

}  // namespace rattan::kernels::RATTAN_ISA
