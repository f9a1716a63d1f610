// Times of the stages of the CUDA RAT kernels around the attention, at the size of a layer: 262,144 tokens, 16 heads of
// 128 in 2 groups, bf16, for several chunk lengths; and of a copy on the device, the speed to compare them with.
// Median, least and most of ten calls after three; GB/s count what must be read and written once. With any argument
// each stage runs once, for a profiler.
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>

#include "rattan/base/error.h"
#include "rattan/base/random.h"
#include "rattan/kernels/cuda/rat_stages.h"
#include "rattan/kernels/rope.h"

namespace rattan::kernels::rat_bench_file {

constexpr int64_t kTokens = 262144, kHeads = 16, kDim = 128, kGroups = 2, kModel = kHeads * kDim;
constexpr int64_t kQueries = kGroups * kDim;

void check(cudaError_t status) {
  if (status != cudaSuccess) fail("CUDA: {}", cudaGetErrorString(status));
}

template <class T>
struct Memory {
  T* data = nullptr;
  explicit Memory(int64_t count) { check(cudaMalloc(&data, static_cast<std::size_t>(count) * sizeof(T))); }
  // Normal values; a block of a million repeats.
  Memory(Rng& rng, int64_t count) : Memory(count) {
    std::vector<T> block(static_cast<std::size_t>(std::min<int64_t>(count, 1 << 20)));
    for (T& x : block) {
      const auto value = static_cast<float>(rng.normal());
      if constexpr (std::is_same_v<T, bf16>) {
        x = to_bf16(value);
      } else {
        x = value;
      }
    }
    for (int64_t i = 0; i < count; i += 1 << 20) {
      const auto n = static_cast<std::size_t>(std::min<int64_t>(count - i, 1 << 20));
      check(cudaMemcpy(data + i, block.data(), n * sizeof(T), cudaMemcpyHostToDevice));
    }
  }
  explicit Memory(const std::vector<T>& values) : Memory(static_cast<int64_t>(values.size())) {
    check(cudaMemcpy(data, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
  }
  ~Memory() { cudaFree(data); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
};

int runs = 13, warm_up = 3;

template <class F>
void time_stage(const char* name, double bytes, F&& run) {
  cudaEvent_t start, stop;
  check(cudaEventCreate(&start));
  check(cudaEventCreate(&stop));
  std::vector<float> times;
  for (int i = 0; i < runs; ++i) {
    check(cudaEventRecord(start));
    run();
    check(cudaEventRecord(stop));
    check(cudaEventSynchronize(stop));
    float ms = 0;
    check(cudaEventElapsedTime(&ms, start, stop));
    if (i >= warm_up) times.push_back(ms);
    if (i > warm_up && ms > 100) break;
  }
  std::sort(times.begin(), times.end());
  const double median = times[times.size() / 2];
  std::printf("  %-24s %8.3f ms (%.3f .. %.3f) %7.0f GB/s\n", name, median, times.front(), times.back(),
              bytes / median * 1e-6);
  check(cudaEventDestroy(start));
  check(cudaEventDestroy(stop));
}

struct Buffers {
  Rng rng{1};
  int64_t width = RatShape{kTokens, kHeads, kGroups, kDim, 0, 0, 0}.width();
  Memory<bf16> proj{rng, kTokens* width}, out{rng, kTokens* kModel}, y{rng, kTokens* kModel};
  Memory<bf16> d_out{rng, kTokens* kModel}, d_proj{rng, kTokens* width};
  Memory<float> bias{rng, kModel}, d_bias{kModel}, lse{rng, kTokens* kHeads}, local{rng, kTokens* kHeads};
  Memory<float> other{rng, kTokens* kHeads}, dq{rng, kTokens* kQueries};
};

void stages(Buffers& b, int64_t length, int64_t chunk) {
  std::printf("%ld sequences of %ld tokens, L = %ld\n", static_cast<long>(kTokens / length), static_cast<long>(length),
              static_cast<long>(chunk));
  const int64_t chunks = length / chunk, ends = kTokens / length * chunks, width = b.width;
  std::vector<RatChunk> table;
  for (int64_t s = 0; s < kTokens / length; ++s) {
    for (int64_t c = 0; c < chunks; ++c) {
      const auto begin = static_cast<int32_t>(s * length + c * chunk), base = static_cast<int32_t>(s * chunks);
      table.push_back({begin, static_cast<int32_t>(begin + chunk), base, static_cast<int32_t>(base + c),
                       static_cast<int32_t>(c), -1, c + 1 == chunks ? static_cast<int32_t>(s) : -1});
    }
  }
  std::vector<float> cos(static_cast<std::size_t>(chunks * kDim / 2)), sin(cos.size());
  rope_table(chunks, kDim, 10000, cos.data(), sin.data());
  const Memory<RatChunk> chunk_table(table);
  const Memory<float> cos_d(cos), sin_d(sin);
  const Memory<bf16> ends_k(b.rng, ends * kModel), ends_v(b.rng, ends * kModel);
  const Memory<float> d_ends_k(b.rng, ends * kModel), d_ends_v(b.rng, ends * kModel);
  const Memory<float> final_k(b.rng, kTokens / length * kModel), final_v(b.rng, kTokens / length * kModel);
  const Memory<int32_t> rows_memory(2 * kTokens);
  const RatShape shape{kTokens, kHeads, kGroups, kDim, ends, ends, chunk};
  const cuda::RatRows rows{rows_memory.data, rows_memory.data + kTokens};
  const cuda::RatColumns columns(shape);
  const double stream = 2.0 * kTokens * kModel, narrow = 2.0 * kTokens * kQueries, end = 2.0 * ends * kModel;
  const double statistic = 4.0 * kTokens * kHeads;

  RatForward<bf16> f;
  f.shape = shape, f.table = chunk_table.data, f.proj = {b.proj.data, width}, f.gate_bias = b.bias.data;
  f.cos = cos_d.data, f.sin = sin_d.data;
  f.ends_k = {ends_k.data, kModel, kDim}, f.ends_v = {ends_v.data, kModel, kDim};
  f.final_k = {final_k.data, kModel, kDim}, f.final_v = {final_v.data, kModel, kDim};
  f.out = {b.out.data, kModel}, f.lse = b.lse.data;
  time_stage("rows, padding", 8.0 * kTokens, [&] {
    cuda::rat_rows(shape, f.table, rows, nullptr);
    cuda::rat_padding(shape, rows, cuda::RatPadding<bf16>{}, nullptr);
  });
  const auto queries = cuda::by_token(b.d_proj.data + columns.q, width, kDim);
  time_stage("rotate", 2 * narrow,
             [&] { cuda::rat_rotate<bf16>(shape, f.table, f.cos, f.sin, f.proj, queries, nullptr); });
  time_stage("scan", 3 * stream + 2 * narrow + 2 * end + statistic,
             [&] { cuda::rat_scan(f, b.local.data, cuda::by_token(b.out.data, kModel, kDim), nullptr); });
  const Memory<char> forward_scratch(cuda::rat_forward_scratch_bytes(f));
  time_stage("forward, whole", 6 * stream + 2 * narrow + 2 * end,
             [&] { cuda::rat_forward(f, forward_scratch.data, nullptr); });
  time_stage("final", 0, [&] { cuda::rat_final(f, nullptr); });

  RatBackward<bf16> g;
  g.shape = shape, g.table = f.table, g.proj = f.proj, g.gate_bias = f.gate_bias, g.cos = f.cos, g.sin = f.sin;
  g.ends_k = {ends_k.data, kModel, kDim}, g.ends_v = {ends_v.data, kModel, kDim};
  g.out = {b.y.data, kModel}, g.lse = b.lse.data, g.d_out = {b.d_out.data, kModel}, g.d_proj = {b.d_proj.data, width};
  g.d_gate_bias = b.d_bias.data;
  g.d_ends_k = {d_ends_k.data, kModel, kDim}, g.d_ends_v = {d_ends_v.data, kModel, kDim};
  const auto dy = cuda::by_token(b.d_proj.data + columns.v, width, kDim);
  time_stage("gate", 5 * stream + statistic, [&] { cuda::rat_gate(g, dy, b.other.data, nullptr); });
  cuda::Scratch counted;
  const cuda::RatChunksScratch nothing(counted, shape);
  const Memory<char> scratch_memory(counted.used());
  cuda::Scratch scratch(scratch_memory.data);
  const cuda::RatChunksScratch chunks_scratch(scratch, shape);
  time_stage("chunks", 5 * stream + 6 * narrow + 4 * end + 2 * statistic, [&] {
    cuda::rat_chunks(g, cuda::by_token<const bf16>(dy.data, width, kDim),
                     cuda::by_token<const float>(b.dq.data, kQueries, kDim), b.other.data, chunks_scratch, nullptr);
  });
  const Memory<char> backward_scratch(cuda::rat_backward_scratch_bytes(shape));
  time_stage("backward, whole", 9 * stream + 6 * narrow + 6 * end,
             [&] { cuda::rat_backward(g, backward_scratch.data, nullptr); });
  std::printf("  scratch of chunks: %.0f MB\n", static_cast<double>(counted.used()) * 1e-6);
}

int main(bool once) {
  if (once) runs = 1, warm_up = 0;
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, 0));
  std::printf("%s, %d multiprocessors\n", properties.name, properties.multiProcessorCount);
  Buffers buffers;
  const auto bytes = static_cast<std::size_t>(kTokens * kModel * 2);
  time_stage("copy", 2.0 * static_cast<double>(bytes),
             [&] { check(cudaMemcpyAsync(buffers.out.data, buffers.y.data, bytes, cudaMemcpyDeviceToDevice)); });
  stages(buffers, 4096, 16);
  if (once) return 0;
  stages(buffers, 131072, 16);
  stages(buffers, 131072, 64);
  stages(buffers, 4096, 8);
  stages(buffers, 131072, 131072);
  check(cudaDeviceSynchronize());
  return 0;
}

}  // namespace rattan::kernels::rat_bench_file

int main(int argc, char**) {
  try {
    return rattan::kernels::rat_bench_file::main(argc > 1);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
