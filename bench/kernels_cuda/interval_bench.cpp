// Times of interval attention at the sizes of a layer of 262,144 tokens, 16 heads of 128, bf16: RAT's attention over
// chunk ends (queries shared by the 8 heads of a group), sliding windows and causal attention. Median, least and most
// of ten calls after three; TFLOP/s count the pairs a query sees, 4 p forward and 10 p backward.
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <type_traits>
#include <vector>

#include "rattan/base/error.h"
#include "rattan/base/random.h"
#include "rattan/kernels/cuda/interval_attention.h"

namespace rattan::kernels::interval_bench_file {

constexpr int64_t kTokens = 262144, kHeads = 16, kDim = 128, kModel = kHeads * kDim;

void check(cudaError_t status) {
  if (status != cudaSuccess) fail("CUDA: {}", cudaGetErrorString(status));
}

struct Memory {
  void* data = nullptr;
  explicit Memory(int64_t bytes) { check(cudaMalloc(&data, static_cast<std::size_t>(bytes))); }
  ~Memory() { cudaFree(data); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
};

// Normal values; a block of a million repeats.
void fill(bf16* p, int64_t count) {
  static const std::vector<bf16> block = [] {
    Rng rng(1);
    std::vector<bf16> values(1 << 20);
    for (bf16& x : values) x = to_bf16(static_cast<float>(rng.normal()));
    return values;
  }();
  for (int64_t i = 0; i < count; i += 1 << 20)
    check(cudaMemcpy(p + i, block.data(), static_cast<std::size_t>(std::min<int64_t>(count - i, 1 << 20)) * 2,
                     cudaMemcpyHostToDevice));
}

template <class F>
void time_kernel(const char* name, int64_t size, double flops, F&& run) {
  std::vector<float> times;
  cudaEvent_t start, stop;
  check(cudaEventCreate(&start));
  check(cudaEventCreate(&stop));
  for (int i = 0; i < 13; ++i) {
    check(cudaEventRecord(start));
    run();
    check(cudaEventRecord(stop));
    check(cudaEventSynchronize(stop));
    float ms = 0;
    check(cudaEventElapsedTime(&ms, start, stop));
    if (i >= 3) times.push_back(ms);
    if (i >= 5 && ms > 300) break;
  }
  std::sort(times.begin(), times.end());
  const double median = times[times.size() / 2];
  std::printf("%-43s %7lld %9.3f ms (%.3f .. %.3f) %7.1f TFLOP/s\n", name, static_cast<long long>(size), median,
              times.front(), times.back(), flops / median * 1e-9);
  std::fflush(stdout);
  check(cudaEventDestroy(start));
  check(cudaEventDestroy(stop));
}

// chunk 0: `window` keys before and with each token; else the ends of the chunks before.
void run(const char* name, int64_t length, int64_t chunk, int64_t window, int64_t q_heads, bool with_backward) {
  const int64_t keys = chunk > 0 ? kTokens / chunk : kTokens;
  std::vector<int32_t> begin, end;
  double pairs = 0;
  for (int64_t i = 0; i < kTokens; ++i) {
    const int64_t row = i / length, t = i % length;
    const int64_t b = chunk > 0 ? row * length / chunk : std::max(row * length, i + 1 - window);
    const int64_t e = chunk > 0 ? b + t / chunk : i + 1;
    begin.push_back(static_cast<int32_t>(b)), end.push_back(static_cast<int32_t>(e));
    pairs += static_cast<double>(e - b);
  }
  Memory intervals(kTokens * 8), q(kTokens * q_heads * kDim * 2), k(keys * kModel * 2), v(keys * kModel * 2),
      o(kTokens * kModel * 2), d_o(kTokens * kModel * 2), lse(kTokens * kHeads * 4), dq(kTokens * q_heads * kDim * 4),
      dk(keys * kModel * 4), dv(keys * kModel * 4), delta(kTokens * kHeads * 4);
  auto* begin_d = static_cast<int32_t*>(intervals.data);
  check(cudaMemcpy(begin_d, begin.data(), kTokens * 4, cudaMemcpyHostToDevice));
  check(cudaMemcpy(begin_d + kTokens, end.data(), kTokens * 4, cudaMemcpyHostToDevice));
  check(cudaMemset(delta.data, 0, kTokens * kHeads * 4));
  auto values = [](Memory& m) { return static_cast<bf16*>(m.data); };
  fill(values(q), kTokens * q_heads * kDim), fill(values(k), keys * kModel), fill(values(v), keys * kModel);
  fill(values(d_o), kTokens * kModel);

  cuda::IntervalForward<bf16> f;
  f.queries = kTokens, f.keys = keys, f.heads = f.kv_heads = kHeads, f.q_heads = q_heads, f.dim = kDim;
  f.scale = 1 / std::sqrt(128.0f), f.begin = begin_d, f.end = begin_d + kTokens;
  f.q = {values(q), q_heads * kDim, kDim}, f.k = {values(k), kModel, kDim}, f.v = {values(v), kModel, kDim};
  f.o = {values(o), kModel, kDim}, f.lse = static_cast<float*>(lse.data);
  const double product = 2 * pairs * kModel;
  time_kernel((std::string(name) + " forward").c_str(), length, 2 * product,
              [&] { cuda::interval_attention_forward(f, nullptr); });
  if (chunk > 0) {
    Memory score(kTokens * kHeads * 4), value(kTokens * kModel * 2), gate(kTokens * kModel * 2);
    check(cudaMemset(score.data, 0, kTokens * kHeads * 4));
    fill(values(value), kTokens * kModel), fill(values(gate), kTokens * kModel);
    cuda::IntervalForward<bf16> g = f;
    g.own = {static_cast<float*>(score.data), {values(value), kModel, kDim}, {values(gate), kModel, kDim}};
    time_kernel((std::string(name) + " forward, gated").c_str(), length, 2 * product,
                [&] { cuda::interval_attention_forward(g, nullptr); });
  }
  if (!with_backward) return;
  auto backward = [&](auto u) {
    using U = decltype(u);
    cuda::IntervalBackward<bf16, U> b;
    b.queries = kTokens, b.keys = keys, b.heads = b.kv_heads = kHeads, b.q_heads = q_heads, b.dim = kDim;
    b.scale = f.scale, b.begin = f.begin, b.end = f.end, b.q = f.q, b.k = f.k, b.v = f.v, b.lse = f.lse;
    b.o = {values(o), kModel, kDim}, b.d_o = {values(d_o), kModel, kDim};
    b.delta = static_cast<float*>(delta.data);
    b.dq = {static_cast<U*>(dq.data), q_heads * kDim, kDim};
    b.dk = {static_cast<U*>(dk.data), kModel, kDim}, b.dv = {static_cast<U*>(dv.data), kModel, kDim};
    time_kernel((std::string(name) + " backward, queries").c_str(), length, 3 * product,
                [&] { cuda::interval_query_hopper(b, nullptr); });
    const auto time_passes = [&](const char* what) {
      for (const bool joint : {false, true}) {
        b.passes = joint ? cuda::BackwardPasses::joint : cuda::BackwardPasses::two;
        Memory scratch(cuda::interval_backward_scratch_bytes(b));
        b.scratch = scratch.data;
        time_kernel((std::string(name) + what + (joint ? "joint" : "two passes")).c_str(), length, 5 * product,
                    [&] { cuda::interval_attention_backward(b, nullptr); });
      }
    };
    time_passes(" backward, ");
    if constexpr (std::is_same_v<U, float>) {
      Memory d_out(kTokens * kModel * 2), gate(kTokens * kModel * 2), d_gate(kTokens * kModel * 2);
      fill(values(d_out), kTokens * kModel), fill(values(gate), kTokens * kModel);
      b.gated.d_out = {values(d_out), kModel, kDim}, b.gated.gate = {values(gate), kModel, kDim};
      b.gated.out = {values(o), kModel, kDim}, b.gated.d_y = {values(d_o), kModel, kDim};
      b.gated.d_gate = {values(d_gate), kModel, kDim}, b.gated.delta = static_cast<float*>(delta.data);
      time_kernel((std::string(name) + " backward, queries, gated").c_str(), length, 3 * product,
                  [&] { cuda::interval_query_hopper(b, nullptr); });
      time_passes(" backward, gated, ");
    }
  };
  if (chunk > 0) return backward(0.0f);
  backward(bf16{});
}

int main(bool all) {
  for (int64_t length : {4096, 16384, 131072}) run("chunk ends (L 16)", length, 16, 0, 2, true);
  run("chunk ends (L 64)", 131072, 64, 0, 2, true);
  for (int64_t length : {4096, 131072}) run("window 1024", length, 0, 1024, kHeads, true);
  run("causal", 4096, 0, 4096, kHeads, true);
  if (all) run("causal", 16384, 0, 16384, kHeads, true);
  return 0;
}

}  // namespace rattan::kernels::interval_bench_file

int main(int argc, char**) {
  try {
    return rattan::kernels::interval_bench_file::main(argc > 1);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
