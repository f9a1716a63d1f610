// Attention of one query over keys of its own by one block, for interval_rows.cu and rat_step.cu. The warps share the
// keys out; within a warp some lanes hold one key, 16 bytes each, and the keys of the next round are on their way while
// those of this one are used. Each group of lanes keeps a softmax of its own until the end, when all are merged in a
// fixed order. Blocks that run at the same time should have neighboring heads of the same keys: then what they read
// together is contiguous.
#pragma once
#include <cmath>
#include <type_traits>

#include "rattan/kernels/cuda/device.cuh"
#include "rattan/kernels/cuda/mxint8.cuh"

namespace rattan::kernels::cuda {

// How many warps a block has, and into how many parts, of a block each, a query's keys are cut. Where queries and heads
// fill a device small blocks are best, which go their own pace; else large ones, and several to a query if it has many
// keys. The mean number of keys a query decides, since the intervals lie on the device.
struct RowPlan {
  static constexpr int narrow = 4, wide = 8;
  int warps = narrow;
  int64_t parts = 1;

  RowPlan(int64_t queries, int64_t keys, int64_t heads) {
    constexpr int64_t multiprocessors = 132, least_keys = 256;
    const int64_t blocks = queries * heads;
    if (blocks == 0 || blocks >= 4 * multiprocessors) return;
    warps = wide;
    const int64_t fitting = 2 * multiprocessors / blocks, useful = keys / queries / least_keys;
    parts = fitting < useful ? fitting : useful;
    if (parts < 1) parts = 1;
  }
};

// Maximum (times log2 e), sum of exponentials and weighted values of some keys, for C channels.
template <int C>
struct RowSoftmax {
  float most = -INFINITY, sum = 0, out[C] = {};

  __device__ void shrink_to(float top) {
    const float factor = top == -INFINITY ? 0.0f : fast_exp2(most - top);
    most = top;
    sum *= factor;
#pragma unroll
    for (int c = 0; c < C; ++c) out[c] *= factor;
  }
  __device__ void merge_lane(int distance) {
    const float other = __shfl_xor_sync(kAllLanes, most, distance);
    shrink_to(fmaxf(most, other));
    sum += __shfl_xor_sync(kAllLanes, sum, distance);
#pragma unroll
    for (int c = 0; c < C; ++c) out[c] += __shfl_xor_sync(kAllLanes, out[c], distance);
  }
};

// Channels of a lane as they were loaded, in units of 16 bytes.
template <class T, int C>
struct RowUnits {
  static constexpr int per_unit = 16 / sizeof(T), units = C / per_unit;
  uint4 unit[units];

  // Channel c; the index is a constant wherever it is used.
  __device__ float value(int c) const {
    const uint4& u = unit[c / per_unit];
    const int word = c % per_unit * static_cast<int>(sizeof(T)) / 4;
    const uint32_t x = word == 0 ? u.x : word == 1 ? u.y : word == 2 ? u.z : u.w;
    if constexpr (sizeof(T) == 4) return __uint_as_float(x);
    if constexpr (sizeof(T) == 1) {
      // A byte behind the bits of 2^23, where the spacing is 1; offset, since bits have no sign there.
      const uint32_t bits = __byte_perm(x ^ 0x80808080u, 0x4b000000u, 0x7440u | c % 4);
      return __uint_as_float(bits) - (0x1p23f + 128);
    }
    return __uint_as_float(c % 2 == 0 ? x << 16 : x & 0xffff0000u);
  }
};

// Keys or values; of those in 8 bits the exponents too.
template <class T>
struct RowSource {
  HeadsRef<const T> rows;
  HeadsRef<const uint8_t> exponents;
};
template <class T>
__host__ __device__ auto row_source(const HeadsRef<T>& x) {
  return RowSource<std::remove_const_t<T>>{{x.data, x.row, x.head}, {}};
}
template <class Code>
__host__ __device__ RowSource<int8_t> row_source(const Mxint8Heads<Code>& x) {
  return {{x.code.data, x.code.row, x.code.head}, {x.exponent.data, x.exponent.row, x.exponent.head}};
}

// What the channels of a lane are to be multiplied by, of n keys: of those in 8 bits a power of two.
template <class T, int n>
struct RowScales {
  __device__ RowScales(const RowSource<T>&, int64_t, int64_t, int, int) {}
  __device__ void load(int, int64_t) {}
  __device__ float times(int, float x) const { return x; }
};
template <int n>
struct RowScales<int8_t, n> {
  const uint8_t* exponents;  // of the first key; null: the lane has no channels
  int64_t row;
  uint8_t exponent[n];

  __device__ RowScales(const RowSource<int8_t>& x, int64_t begin, int64_t head, int first, int dim)
      : exponents(first < dim ? at(x.exponents, begin, head) + first / static_cast<int>(mxint8_block) : nullptr),
        row(x.exponents.row) {}
  __device__ void load(int b, int64_t key) { exponent[b] = exponents ? __ldg(exponents + key * row) : uint8_t{0}; }
  __device__ float times(int b, float x) const { return x * mxint8_scale(exponent[b]); }
};

// 16 bytes that are read once.
template <class T>
__device__ uint4 load_once(const T* p) {
  uint4 x;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "l"(p));
  return x;
}

// C channels of a row from `first` on; zeros beyond dim. `row` points at channel `first`.
template <class T, int C>
__device__ RowUnits<T, C> load_channels(const T* row, int first, int dim, bool vector) {
  constexpr int V = 16 / sizeof(T);
  RowUnits<T, C> x;
#pragma unroll
  for (int c = 0; c < C; c += V) {
    uint4& unit = x.unit[c / V];
    unit = {0, 0, 0, 0};
    if (vector) {
      if (first + c < dim) unit = load_once(row + c);
    } else {
      alignas(16) T item[V];
#pragma unroll
      for (int i = 0; i < V; ++i) item[i] = first + c + i < dim ? row[c + i] : T{};
      unit = *reinterpret_cast<const uint4*>(item);
    }
  }
  return x;
}

// The keys [begin, end) of one head, for one block of `warps`. lanes: of a key, C channels each; the groups of lanes of
// a warp have keys of their own, `round` of them at a time.
template <class T, int lanes, int C, int warps>
struct RowKeys {
  static constexpr int round = sizeof(T) == 1 ? 4 : 8, groups = 32 / lanes, stride = warps * groups * round;
  const T *keys, *values;  // channel `first` of the first key
  int64_t key_row, value_row;
  int count, dim, first;
  bool vector;
  RowUnits<T, C> k[round], v[round];
  RowScales<T, round> key_scales, value_scales;

  __device__ RowKeys(const RowSource<T>& keys_in, const RowSource<T>& values_in, int64_t head, int64_t begin,
                     int64_t end, int dim_in, bool vector_in)
      : key_row(keys_in.rows.row),
        value_row(values_in.rows.row),
        count(static_cast<int>(end - begin)),
        dim(dim_in),
        first(static_cast<int>(threadIdx.x) % lanes * C),
        vector(vector_in),
        key_scales(keys_in, begin, head, first, dim_in),
        value_scales(values_in, begin, head, first, dim_in) {
    keys = at(keys_in.rows, begin, head) + first;
    values = at(values_in.rows, begin, head) + first;
    if (base() >= count) return;
    load(k, key_scales, keys, key_row, own());
    load(v, value_scales, values, value_row, own());
  }

  // Asks the L2 cache for the keys and values of the next `rounds` rounds.
  __device__ void fetch_ahead(int rounds) const {
    if (first >= dim) return;
    for (int j0 = own() + stride, r = 0; r < rounds && j0 < count; j0 += stride, ++r) {
#pragma unroll
      for (int b = 0; b < round; ++b) {
        const int key = min(j0 + b, count - 1);
        asm volatile("prefetch.global.L2 [%0];" ::"l"(keys + key * key_row));
        asm volatile("prefetch.global.L2 [%0];" ::"l"(values + key * value_row));
      }
    }
  }

  // q: this lane's channels, times the scale and log2 e.
  __device__ RowSoftmax<C> attend(const float (&q)[C]) {
    RowSoftmax<C> state;
    for (int j0 = own(), b0 = base(); b0 < count; j0 += stride, b0 += stride) {
      const bool more = b0 + stride < count;
      float s[round], top = state.most;
#pragma unroll
      for (int b = 0; b < round; ++b) {
        s[b] = 0;
#pragma unroll
        for (int c = 0; c < C; ++c) s[b] += q[c] * k[b].value(c);
        s[b] = key_scales.times(b, s[b]);
      }
      if (more) load(k, key_scales, keys, key_row, j0 + stride);
#pragma unroll
      for (int d = lanes / 2; d > 0; d /= 2) {
#pragma unroll
        for (int b = 0; b < round; ++b) s[b] += __shfl_xor_sync(kAllLanes, s[b], d);
      }
#pragma unroll
      for (int b = 0; b < round; ++b) {
        if (j0 + b >= count) s[b] = -INFINITY;
        top = fmaxf(top, s[b]);
      }
      state.shrink_to(top);
#pragma unroll
      for (int b = 0; b < round; ++b) {
        const float p = s[b] == -INFINITY ? 0.0f : fast_exp2(s[b] - top);
        state.sum += p;
        const float weight = value_scales.times(b, p);
#pragma unroll
        for (int c = 0; c < C; ++c) state.out[c] += weight * v[b].value(c);
      }
      if (more) load(v, value_scales, values, value_row, j0 + stride);
    }
    return state;
  }

 private:
  __device__ static int base() { return static_cast<int>(threadIdx.x) / 32 * groups * round; }
  __device__ static int own() { return base() + static_cast<int>(threadIdx.x) % 32 / lanes * round; }
  // Beyond the end the last key is read again, which is in a cache, rather than asking at every key.
  __device__ void load(RowUnits<T, C> (&x)[round], RowScales<T, round>& scales, const T* from, int64_t row,
                       int j0) const {
#pragma unroll
    for (int b = 0; b < round; ++b) {
      const int key = min(j0 + b, count - 1);
      x[b] = load_channels<T, C>(from + key * row, first, dim, vector);
      scales.load(b, key);
    }
  }
};

// What the warps of a block found, brought together in shared memory.
template <int lanes, int C, int warps>
struct RowSums {
  float values[warps][lanes * C], tops[warps], sums[warps];

  // Called by the whole block; ends with a barrier.
  __device__ void put(RowSoftmax<C>& state) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
    for (int d = lanes; d < 32; d *= 2) state.merge_lane(d);
    if (lane < lanes) {
#pragma unroll
      for (int c = 0; c < C; ++c) values[warp][lane * C + c] = state.out[c];
    }
    if (lane == 0) {
      tops[warp] = state.most;
      sums[warp] = state.sum;
    }
    __syncthreads();
  }
};

// Maximum (times log2 e), sum, and the warps' values together.
template <int lanes, int C, int warps>
struct RowTotal {
  const RowSums<lanes, C, warps>& s;
  float top = -INFINITY, sum = 0;

  __device__ explicit RowTotal(const RowSums<lanes, C, warps>& sums) : s(sums) {
#pragma unroll
    for (int w = 0; w < warps; ++w) top = fmaxf(top, s.tops[w]);
#pragma unroll
    for (int w = 0; w < warps; ++w) sum += s.sums[w] * weight(w);
  }
  __device__ float value(int channel) const {
    float x = 0;
#pragma unroll
    for (int w = 0; w < warps; ++w) x += s.values[w][channel] * weight(w);
    return x;
  }

 private:
  __device__ float weight(int w) const { return top == -INFINITY ? 0.0f : fast_exp2(s.tops[w] - top); }
};

// The results of the parts of a query and head in scratch memory: dim weighted values, maximum, sum.
__device__ inline float* row_part(float* scratch, int64_t pair, int64_t part, int64_t parts, int dim) {
  return scratch + (pair * parts + part) * (dim + 2);
}

// All parts of a query and head merged.
struct RowParts {
  const float* first;
  int64_t parts;
  int dim;
  float top = -INFINITY, sum = 0;

  __device__ RowParts(float* scratch, int64_t pair, int64_t parts_in, int dim_in)
      : first(row_part(scratch, pair, 0, parts_in, dim_in)), parts(parts_in), dim(dim_in) {
    for (int64_t i = 0; i < parts; ++i) top = fmaxf(top, part(i)[dim]);
    for (int64_t i = 0; i < parts; ++i) sum += part(i)[dim + 1] * weight(i);
  }
  __device__ float value(int channel) const {
    float x = 0;
    for (int64_t i = 0; i < parts; ++i) x += part(i)[channel] * weight(i);
    return x;
  }

 private:
  __device__ const float* part(int64_t i) const { return first + i * (dim + 2); }
  __device__ float weight(int64_t i) const { return top == -INFINITY ? 0.0f : fast_exp2(part(i)[dim] - top); }
};

constexpr int kRowMergeThreads = 128;

// Calls f.operator()<lanes, C, warps>() with the lanes of a key, the channels of a lane and the warps of a block.
template <class T, class F>
void with_row_lanes(int64_t dim, int warps, F&& f) {
  constexpr int V = 16 / sizeof(T), half = 64 / V;  // lanes of 64 channels
  auto with = [&]<int w>() {
    if (dim <= 64) return f.template operator()<half, V, w>();
    if (dim <= 128) return f.template operator()<2 * half, V, w>();
    f.template operator()<(V > 8 ? 256 / V : 32), (V > 8 ? V : 8), w>();
  };
  warps == RowPlan::narrow ? with.template operator()<RowPlan::narrow>() : with.template operator()<RowPlan::wide>();
}

// Blocks of a multiprocessor that the compiler is to leave registers for: half as many where a lane holds two units.
template <class T>
constexpr int row_blocks(int warps, int channels) {
  const int registers = channels * static_cast<int>(sizeof(T)) > 16 ? 256 : 128;  // of a thread
  return 65536 / registers / (warps * 32);
}

}  // namespace rattan::kernels::cuda
