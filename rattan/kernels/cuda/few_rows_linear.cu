// The product of at most 16 rows with a bf16 weight. Tensor cores multiply, so that the number of rows costs next to
// nothing: what counts is to stream the weight once, without a pause.
//
// A block makes tiles of eight columns of y for all rows, one after another; its warps share `in` out. Each lane copies
// 16 bytes at a time of one weight row into a ring of its own in shared memory, many of them on their way at once, also
// while the block adds up what its warps have for a tile, and before the rows are there at all: then the tail of one
// product, or a small kernel between two, hides behind the weights of the next. Which of the 16 inner indices of a
// product of 16 x 16 x 8 a lane's values count as is free as long as both sides agree, so they are used as they lie.
// The order of summation depends on `in` alone.
#include "rattan/kernels/cuda/dependent_launch.cuh"
#include "rattan/kernels/cuda/device.cuh"
#include "rattan/kernels/few_rows_linear.h"

namespace rattan::kernels::cuda {

namespace few_rows_linear_file {

constexpr int columns = 8, warps = 8, threads = warps * 32, group = 8;
constexpr int depth = 12;  // 16-byte pieces of a lane on their way: 48 KB a block
constexpr int ring_bytes = depth * threads * 16;

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

// This lane's pieces of the weight: those of a tile in a row, then those of the block's next tile.
class Weights {
 public:
  __device__ Weights(const FewRowsLinear<bf16>& a, uint4* ring, int steps)
      : a_(a), ring_(ring + threadIdx.x), steps_(steps), tile_(blockIdx.x) {
    enter();
#pragma unroll
    for (int i = 0; i < depth; ++i) ask(), turn(asked_);
  }
  // The next piece; asks for the one that takes its place.
  __device__ uint4 next() {
    asm volatile("cp.async.wait_group %0;" ::"n"(depth - 1) : "memory");
    const uint4 w = ring_[taken_ * threads];
    ask(), turn(taken_);
    asked_ = taken_;
    return w;
  }

 private:
  __device__ static void turn(int& slot) { slot = slot + 1 == depth ? 0 : slot + 1; }
  __device__ void enter() {
    const int64_t row = int64_t{tile_} * columns + threadIdx.x % 32 / 4;
    from_ = at(a_.w, row < a_.out ? row : a_.out - 1);
    step_ = 0;
  }
  __device__ void ask() {
    const int k = static_cast<int>((threadIdx.x / 32 * steps_ + step_) * 32 + threadIdx.x % 4 * 8);
    const bool in = k < a_.in && int64_t{tile_} * columns < a_.out;
    const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(ring_ + asked_ * threads));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\ncp.async.commit_group;" ::"r"(to),
                 "l"(in ? from_ + k : a_.w.data), "r"(in ? 16 : 0)
                 : "memory");
    if (++step_ < steps_) return;
    tile_ += static_cast<int>(gridDim.x);
    enter();
  }

  const FewRowsLinear<bf16>& a_;
  uint4* ring_;
  const bf16* from_ = nullptr;
  int steps_, tile_, step_ = 0, asked_ = 0, taken_ = 0;
};

// Two blocks a multiprocessor leave room for those of the next product, where up to eight rows are multiplied.
template <bool upper>
__global__ void __launch_bounds__(threads, upper ? 2 : 4)
    kernel(const __grid_constant__ FewRowsLinear<bf16> a, RowsRef<float> sum, int steps) {
  extern __shared__ uint4 ring[];
  __shared__ float parts[2][warps][(upper ? 16 : 8) * columns];
  Weights weights(a, ring, steps);
  wait_for_stream();
  release_next();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = lane / 4, channel = lane % 4 * 8;
  const int in = static_cast<int>(a.in), rows = static_cast<int>(a.rows);
  const bf16* lower_x = at(a.x, row) + channel;
  const bf16* upper_x = at(a.x, row + 8) + channel;
  uint4 lower[group], higher[group];
  bool loaded = false;
  int turn = 0;
  for (int64_t first = int64_t{blockIdx.x} * columns; first < a.out; first += int64_t{gridDim.x} * columns) {
    float d[2][4] = {};
    for (int step = 0; step < steps; step += group) {
      if (!loaded) {
#pragma unroll
        for (int i = 0; i < group; ++i) {
          const int k = (warp * steps + step + i) * 32;
          lower[i] = higher[i] = {0, 0, 0, 0};
          if (k + channel >= in) continue;
          if (row < rows) lower[i] = *reinterpret_cast<const uint4*>(lower_x + k);
          if (upper && row + 8 < rows) higher[i] = *reinterpret_cast<const uint4*>(upper_x + k);
        }
        loaded = steps == group;  // the same for the next tile
      }
#pragma unroll
      for (int i = 0; i < group; ++i) multiply(d[i % 2], lower[i], higher[i], weights.next());
    }
    auto& part = parts[turn];
    turn ^= 1;
#pragma unroll
    for (int i = 0; i < (upper ? 4 : 2); ++i) {
      part[warp][(row + i / 2 * 8) * columns + lane % 4 * 2 + i % 2] = d[0][i] + d[1][i];
    }
    __syncthreads();
    const int i = threadIdx.x, r = i / columns;
    const int64_t column = first + i % columns;
    if (i >= rows * columns || column >= a.out) continue;
    float y = 0;
#pragma unroll
    for (int w = 0; w < warps; ++w) y += part[w][i];
    if (sum.data) {
      at(sum, r)[column] += y;
    } else {
      at(a.y, r)[column] = from_float<bf16>(y);
    }
  }
}

void run(const FewRowsLinear<bf16>& a, const RowsRef<float>& sum, void* stream_pointer) {
  if (a.rows == 0 || a.out == 0) return;
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  const auto tiles = blocks_for(a.out, columns), blocks = 2 * int64_t{multiprocessors()};
  const auto steps = static_cast<int>(blocks_for(a.in, 32 * warps * group) * group);
  const auto grid = static_cast<unsigned>(tiles < blocks ? tiles : blocks);
  auto* chosen = a.rows > 8 ? kernel<true> : kernel<false>;
  // Beside the ring there are the warps' parts, which count, too.
  allow_shared_memory(reinterpret_cast<const void*>(chosen), ring_bytes + 8 * 1024, "few_rows_linear");
  launch_dependent("few_rows_linear", chosen, grid, threads, ring_bytes, stream, a, sum, steps);
}

}  // namespace few_rows_linear_file

bool takes_few_rows(const FewRowsLinear<bf16>& a) {
  return a.rows <= few_rows && a.in % 8 == 0 && aligned16(a.x) && aligned16(a.w) && a.in < (int64_t{1} << 30);
}
void few_rows_linear(const FewRowsLinear<bf16>& a, void* stream) { few_rows_linear_file::run(a, {}, stream); }
void add_few_rows_linear(const FewRowsLinear<bf16>& a, const RowsRef<float>& sum, void* stream) {
  few_rows_linear_file::run(a, sum, stream);
}

}  // namespace rattan::kernels::cuda
