// Attention of one query row, all heads at once, streaming the keys and values row by row: the decode step,
// bound by memory. Partial results over parts of the keys are merged in a fixed order.
#pragma once
#include "rattan/kernels/cpu/pack.h"
#include "rattan/kernels/tensor_ref.h"

namespace rattan::kernels::RATTAN_ISA {

constexpr int64_t stream_block = 32;  // keys between two updates of the running maximum

// Running softmax of every head: max and sum of exp(score - max), and the weighted values.
struct StreamState {
  float* max;  // [heads]
  float* sum;  // [heads]
  float* out;  // [heads][padded]

  static int64_t floats(int64_t heads, int64_t padded) { return 2 * round_up(heads, 16) + heads * padded; }
  StreamState(float* memory, int64_t heads)
      : max(memory), sum(memory + round_up(heads, 16)), out(memory + 2 * round_up(heads, 16)) {}
  void clear(int64_t heads, int64_t padded) {
    for (int64_t h = 0; h < heads; ++h) max[h] = -__builtin_inff(), sum[h] = 0;
    std::memset(out, 0, static_cast<size_t>(heads * padded) * sizeof(float));
  }
  // Adds the sums of `other`, made from other keys.
  void merge(const StreamState& other, int64_t heads, int64_t padded) {
    for (int64_t h = 0; h < heads; ++h) {
      float top = max[h] > other.max[h] ? max[h] : other.max[h];
      if (top == -__builtin_inff()) continue;
      float mine = exp(max[h] - top), theirs = exp(other.max[h] - top);
      sum[h] = sum[h] * mine + other.sum[h] * theirs;
      max[h] = top;
      float* to = out + h * padded;
      const float* from = other.out + h * padded;
      for (int64_t c = 0; c < padded; c += W) {
        store(to + c, fma(load(from + c), splat(theirs), load(to + c) * splat(mine)));
      }
    }
  }
};

template <class T>
[[gnu::always_inline]] inline float dot_row(const float* q, const T* k, int64_t dim) {
  Vec a = zero(), b = zero();
  int64_t c = 0;
  for (; c + 2 * W <= dim; c += 2 * W) {
    a = fma(load(q + c), load(k + c), a);
    b = fma(load(q + c + W), load(k + c + W), b);
  }
  for (; c < dim; c += W) a = fma(load(q + c), dim - c >= W ? load(k + c) : load_n(k + c, dim - c), a);
  return sum(a + b);
}

// out[0..N*W) = out * factor + sum_j weight_j v_j
template <int N, class T>
[[gnu::always_inline]] inline void add_weighted(float* out, float factor, const float* weights, int64_t n, const T* v,
                                                int64_t row) {
  Vec acc[N];
#pragma GCC unroll 8
  for (int i = 0; i < N; ++i) acc[i] = load(out + i * W) * splat(factor);
  for (int64_t j = 0; j < n; ++j, v += row) {
    Vec weight = splat(weights[j]);
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) acc[i] = fma(weight, load(v + i * W), acc[i]);
  }
#pragma GCC unroll 8
  for (int i = 0; i < N; ++i) store(out + i * W, acc[i]);
}

// The keys [begin, end) for a query q[heads][padded] that is already scaled. `work` holds heads * stream_block
// floats.
template <class T>
void stream_keys(int64_t begin, int64_t end, const HeadsRef<const T>& k, const HeadsRef<const T>& v, int64_t heads,
                 int64_t kv_heads, int64_t dim, const float* q, float* work, StreamState state) {
  int64_t padded = round_up(dim, W), share = heads / kv_heads, line = 64 / static_cast<int64_t>(sizeof(T));
  for (int64_t j0 = begin; j0 < end; j0 += stream_block) {
    int64_t n = end - j0 < stream_block ? end - j0 : stream_block;
    for (int64_t j = 0; j < n; ++j) {
      for (int64_t g = 0; g < kv_heads; ++g) {
        const T* key = k.at(j0 + j, g);
        const T* value = v.at(j0 + j, g);
        for (int64_t c = 0; c < dim; c += line) __builtin_prefetch(value + c);
        for (int64_t h = g * share; h < (g + 1) * share; ++h) {
          work[h * stream_block + j] = dot_row(q + h * padded, key, dim);
        }
      }
    }
    for (int64_t h = 0; h < heads; ++h) {
      float* s = work + h * stream_block;
      for (int64_t j = n; j < round_up(n, W); ++j) s[j] = -__builtin_inff();
      Vec top = splat(state.max[h]);
      for (int64_t j = 0; j < n; j += W) top = max(top, load(s + j));
      float high = hmax(top), base = high == -__builtin_inff() ? 0 : high;
      float factor = exp(state.max[h] - base);
      Vec total = zero();
      for (int64_t j = 0; j < n; j += W) {
        Vec weight = exp(load(s + j) - splat(base));
        total += weight;
        store(s + j, weight);
      }
      state.max[h] = high;
      state.sum[h] = state.sum[h] * factor + sum(total);
      float* out = state.out + h * padded;
      const T* value = v.at(j0, h / share);
      int64_t c = 0;
      for (; c + 4 * W <= dim; c += 4 * W) add_weighted<4>(out + c, factor, s, n, value + c, v.row);
      for (; c + W <= dim; c += W) add_weighted<1>(out + c, factor, s, n, value + c, v.row);
      if (c < dim) {
        Vec acc = load(out + c) * splat(factor);
        for (int64_t j = 0; j < n; ++j) acc = fma(splat(s[j]), load_n(value + j * v.row + c, dim - c), acc);
        store(out + c, acc);
      }
    }
  }
}

}  // namespace rattan::kernels::RATTAN_ISA
