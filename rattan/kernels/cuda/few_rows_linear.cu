// The product of at most 16 rows with a bf16 weight. Tensor cores multiply, so that the number of rows costs next to
// nothing: what counts is to stream the weight once, without a pause.
//
// A block makes tiles of eight columns of y for all rows, one after another; its warps share `in` out. Each lane copies
// 16 bytes at a time of one weight row into a ring of its own in shared memory, four pieces at once, so that a warp
// asks for 256 bytes of each of its rows; up to 96 KB a block are on their way, also while the block adds up what its
// warps have for a tile, and before the rows are there at all. Two such blocks fill a multiprocessor: one of the next
// product starts as soon as one of this product has ended, not earlier, and fills its ring while the last of this
// product are still busy. (With room for both, rings would be filled early, beside this product's own copies, and
// memory would rest in between.) A small product leaves room: behind a kernel that takes little from memory, its own
// weights and the first of the product after it come together. Which of the 16 inner indices of a product of 16 x 16 x
// 8 a lane's values count as is free as long as both sides agree, so they are used as they lie. The order of summation
// depends on `in` alone.
#include "rattan/kernels/cuda/activation.cuh"
#include "rattan/kernels/cuda/dependent_launch.cuh"
#include "rattan/kernels/cuda/device.cuh"
#include "rattan/kernels/few_rows_linear.h"

namespace rattan::kernels::cuda {

namespace few_rows_linear_file {

constexpr int columns = 8, warps = 8, threads = warps * 32, group = 8;
constexpr int batch = 4;  // 16-byte pieces that a lane asks for at once
static_assert(group % batch == 0 && few_rows_norm_width == warps * group * 32);

// d += x w for two times 16 inner indices: x of the rows lane / 4 (lower) and lane / 4 + 8 (upper).
__device__ inline void multiply(float (&d)[4], const uint4& lower, const uint4& upper, const uint4& w) {
  auto half = [&](uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  };
  half(lower.x, upper.x, lower.y, upper.y, w.x, w.y);
  half(lower.z, upper.z, lower.w, upper.w, w.z, w.w);
}

// This lane's pieces of the weight: those of a tile in a row, then those of the block's next tile. `batches` of them
// are on their way.
template <int batches>
class Weights {
 public:
  __device__ Weights(const FewRowsLinear<bf16>& a, uint4* ring, int steps)
      : a_(a), ring_(ring + threadIdx.x), steps_(steps), tile_(blockIdx.x) {
    enter();
#pragma unroll
    for (int i = 0; i < batches; ++i) ask(i);
  }
  // Until the next batch is there.
  __device__ void wait() { asm volatile("cp.async.wait_group %0;" ::"n"(batches - 1) : "memory"); }
  __device__ uint4 operator[](int i) const { return ring_[(turn_ * batch + i) * threads]; }
  // Asks for the batch that takes the place of this one.
  __device__ void next() {
    ask(turn_);
    turn_ = turn_ + 1 == batches ? 0 : turn_ + 1;
  }

 private:
  __device__ void enter() {
    const int64_t row = int64_t{tile_} * columns + threadIdx.x % 32 / 4;
    from_ = at(a_.w, row < a_.out ? row : a_.out - 1);
    step_ = 0;
  }
  __device__ void ask(int turn) {
    const bool more = int64_t{tile_} * columns < a_.out;
    const int first = static_cast<int>((threadIdx.x / 32 * steps_ + step_) * 32 + threadIdx.x % 4 * 8);
#pragma unroll
    for (int i = 0; i < batch; ++i) {
      const int k = first + i * 32;
      const bool in = more && k < a_.in;
      const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(ring_ + (turn * batch + i) * threads));
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(in ? from_ + k : a_.w.data),
                   "r"(in ? 16 : 0)
                   : "memory");
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
    if ((step_ += batch) < steps_) return;
    tile_ += static_cast<int>(gridDim.x);
    enter();
  }

  const FewRowsLinear<bf16>& a_;
  uint4* ring_;
  const bf16* from_ = nullptr;
  int steps_, tile_, step_ = 0, turn_ = 0;
};

// Normalizes rows one by one, eight elements a thread, and leaves them where lanes read their parts.
class Norm {
 public:
  // Before the stream may be read.
  __device__ Norm(const FewRowsEnds& ends, int in) : ends_(ends), in_(in), k_(static_cast<int>(threadIdx.x) * 8) {
#pragma unroll
    for (int i = 0; i < 8; i += 4) weight_[i / 4] = load(ends.norm_weight, i);
  }
  // To row[few_rows_norm_width], whole when this returns; the row before may have been read until then.
  __device__ void operator()(int r, uint4* row) {
    __shared__ float sums[2][warps];
    const float* from = at(ends_.norm_x, r);
    const Pack<float, 4> x[2] = {load(from, 0), load(from, 4)};
    float sum = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) sum += x[i / 4].item[i % 4] * x[i / 4].item[i % 4];
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) sums[r % 2][threadIdx.x / 32] = sum;
    __syncthreads();
    sum = 0;
#pragma unroll
    for (int w = 0; w < warps; ++w) sum += sums[r % 2][w];
    const float inverse = rsqrtf(sum / static_cast<float>(in_) + ends_.eps);
    Pack<bf16, 8> y;
#pragma unroll
    for (int i = 0; i < 8; ++i)
      y.item[i] = from_float<bf16>(x[i / 4].item[i % 4] * inverse * weight_[i / 4].item[i % 4]);
    row[threadIdx.x] = reinterpret_cast<const uint4&>(y);
    __syncthreads();
  }

 private:
  __device__ Pack<float, 4> load(const float* from, int i) const {
    if (k_ >= in_) return {};
    return load_pack<4>(from + k_ + i);
  }
  const FewRowsEnds& ends_;
  int in_, k_;
  Pack<float, 4> weight_[2];
};

// Where up to eight rows are multiplied, registers are left for kernels that need little shared memory.
template <bool upper, bool normed, int batches>
__global__ void __launch_bounds__(threads, upper ? 2 : 3)
    kernel(const __grid_constant__ FewRowsLinear<bf16> a, const __grid_constant__ FewRowsEnds ends, int steps) {
  extern __shared__ uint4 ring[];
  union Shared {
    float parts[2][warps][(upper ? 16 : 8) * columns];
    uint4 row[few_rows_norm_width / 8];
  };
  __shared__ Shared shared;
  // After an addition to the stream comes its norm, which reads nothing but weights before it waits.
  const bool early = ends.sum.data;
  if (early) release_next();
  Weights<batches> weights(a, ring, steps);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = lane / 4, channel = lane % 4 * 8;
  const int in = static_cast<int>(a.in), rows = static_cast<int>(a.rows);
  uint4 lower[group], higher[group];
  bool loaded = false;
  if constexpr (normed) {
    Norm norm(ends, in);
    wait_for_stream();
    release_next();
#pragma unroll
    for (int i = 0; i < group; ++i) lower[i] = higher[i] = {0, 0, 0, 0};
    for (int r = 0; r < rows; ++r) {
      norm(r, shared.row);
#pragma unroll
      for (int i = 0; i < group; ++i) {
        if (row == r) lower[i] = shared.row[((warp * group + i) * 32 + channel) / 8];
      }
    }
    loaded = true;
    __syncthreads();
  } else {
    wait_for_stream();
    if (!early) release_next();
  }
  const auto load = [&](int r, int k) -> uint4 {
    if (r >= rows || k >= in) return {0, 0, 0, 0};
    return *reinterpret_cast<const uint4*>(at(a.x, r) + k);
  };
  int turn = 0;
  for (int64_t first = int64_t{blockIdx.x} * columns; first < a.out; first += int64_t{gridDim.x} * columns) {
    const int r = static_cast<int>(threadIdx.x) / columns;
    const int64_t column = first + threadIdx.x % columns;
    const bool writes = r < rows && column < a.out;
    const float before = ends.sum.data && writes ? at(ends.sum, r)[column] : 0.0f;
    float d[2][4] = {};
    for (int step = 0; step < steps; step += group) {
      if (!loaded) {
#pragma unroll
        for (int i = 0; i < group; ++i) {
          const int k = (warp * steps + step + i) * 32 + channel;
          lower[i] = load(row, k);
          higher[i] = upper ? load(row + 8, k) : uint4{0, 0, 0, 0};
        }
        loaded = steps == group;  // the same for the next tile
      }
#pragma unroll
      for (int i = 0; i < group; i += batch) {
        weights.wait();
#pragma unroll
        for (int j = 0; j < batch; ++j) multiply(d[(i + j) % 2], lower[i + j], higher[i + j], weights[j]);
        weights.next();
      }
    }
    auto& part = shared.parts[turn];
    turn ^= 1;
#pragma unroll
    for (int i = 0; i < (upper ? 4 : 2); ++i) {
      part[warp][(row + i / 2 * 8) * columns + lane % 4 * 2 + i % 2] = d[0][i] + d[1][i];
    }
    __syncthreads();
    if (!writes) continue;
    float y = before;
#pragma unroll
    for (int w = 0; w < warps; ++w) y += part[w][threadIdx.x];
    if (ends.sum.data) {
      at(ends.sum, r)[column] = y;
    } else if (ends.wide.data) {
      at(ends.wide, r)[column] = y;
    } else {
      const bf16 rounded = from_float<bf16>(y);
      at(a.y, r)[column] = ends.gelu ? from_float<bf16>(gelu(as_float(rounded))) : rounded;
    }
  }
}

}  // namespace few_rows_linear_file

bool takes_few_rows(const FewRowsLinear<bf16>& a, const FewRowsEnds& ends) {
  const bool rows = ends.norm_weight
                        ? a.rows <= few_rows_norm && a.in <= few_rows_norm_width && aligned16(ends.norm_x) &&
                              reinterpret_cast<uintptr_t>(ends.norm_weight) % 16 == 0
                        : aligned16(a.x);
  return rows && a.rows <= few_rows && a.in % 8 == 0 && aligned16(a.w) && a.in < (int64_t{1} << 30);
}

void few_rows_linear(const FewRowsLinear<bf16>& a, void* stream_pointer, const FewRowsEnds& ends) {
  using namespace few_rows_linear_file;
  if (a.rows == 0 || a.out == 0) return;
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  const auto tiles = blocks_for(a.out, columns), blocks = 2 * int64_t{multiprocessors()};
  const auto steps = static_cast<int>(blocks_for(a.in, 32 * warps * group) * group);
  const auto grid = static_cast<unsigned>(tiles < blocks ? tiles : blocks);
  constexpr auto ring_bytes = [](int batches) { return batches * batch * threads * 16; };
  const auto launch = [&]<int batches>() {
    auto* chosen = ends.norm_weight ? kernel<false, true, batches>
                   : a.rows > 8     ? kernel<true, false, batches>
                                    : kernel<false, false, batches>;
    allow_shared_memory(reinterpret_cast<const void*>(chosen), ring_bytes(batches), "few_rows_linear");
    launch_dependent("few_rows_linear", chosen, grid, threads, ring_bytes(batches), stream, a, ends, steps);
  };
  const int64_t pieces = blocks_for(tiles, grid) * steps;  // of a lane
  // Beside the ring a block has up to 9 KB of its own; cards of compute capability 8.6 and 8.9 have 99 KB for it.
  const bool narrow = pieces <= 2 * batch || block_shared_memory() < ring_bytes(6) + 9 * 1024;
  narrow ? launch.template operator()<2>() : launch.template operator()<6>();
}

}  // namespace rattan::kernels::cuda
