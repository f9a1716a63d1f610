// Times of the CUDA kernels at the size of one layer: d_model 2048, 16 heads of 128, 2 groups, chunks of 16, 8
// sequences of 4,096 tokens, bf16. Each kernel runs ten times after three warm-ups; printed are the median, the
// least and the most, and the bytes that must be moved or the floating-point operations that must be done a second
// at the median.
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>

#include "rattan/base/error.h"
#include "rattan/base/random.h"
#include "rattan/kernels/activation.h"
#include "rattan/kernels/attention.h"
#include "rattan/kernels/cross_entropy.h"
#include "rattan/kernels/gated_scan.h"
#include "rattan/kernels/rat.h"
#include "rattan/kernels/rms_norm.h"
#include "rattan/kernels/rope.h"

namespace rattan::kernels::kernels_cuda_bench_file {

constexpr int64_t kBatch = 8, kLength = 4096, kHeads = 16, kDim = 128, kGroups = 2, kChunk = 16;
constexpr int64_t kTokens = kBatch * kLength, kModel = kHeads * kDim;

void check(cudaError_t status) {
  if (status != cudaSuccess) fail("CUDA: {}", cudaGetErrorString(status));
}

void* allocate(int64_t bytes) {
  void* p = nullptr;
  check(cudaMalloc(&p, static_cast<std::size_t>(bytes)));
  check(cudaMemset(p, 0, static_cast<std::size_t>(bytes)));
  return p;
}

// Normal values; a block of a million repeats, which no kernel here notices.
bf16* random_bf16(int64_t count) {
  static Rng rng(1);
  std::vector<bf16> block(static_cast<std::size_t>(std::min<int64_t>(count, 1 << 20)));
  for (bf16& x : block) x = to_bf16(static_cast<float>(rng.normal()));
  auto* p = static_cast<bf16*>(allocate(count * 2));
  for (int64_t i = 0; i < count; i += 1 << 20) {
    const auto n = static_cast<std::size_t>(std::min<int64_t>(count - i, 1 << 20));
    check(cudaMemcpy(p + i, block.data(), n * 2, cudaMemcpyHostToDevice));
  }
  return p;
}

float* random_float(int64_t count) {
  static Rng rng(2);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& x : values) x = static_cast<float>(rng.normal());
  auto* p = static_cast<float*>(allocate(count * 4));
  check(cudaMemcpy(p, values.data(), values.size() * 4, cudaMemcpyHostToDevice));
  return p;
}

template <class T>
T* upload(const std::vector<T>& values) {
  auto* p = static_cast<T*>(allocate(static_cast<int64_t>(values.size() * sizeof(T))));
  check(cudaMemcpy(p, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
  return p;
}

template <class F>
void time_kernel(const char* name, double bytes, double flops, F&& run) {
  for (int i = 0; i < 3; ++i) run();
  std::vector<float> times;
  cudaEvent_t start, stop;
  check(cudaEventCreate(&start));
  check(cudaEventCreate(&stop));
  for (int i = 0; i < 10; ++i) {
    check(cudaEventRecord(start));
    run();
    check(cudaEventRecord(stop));
    check(cudaEventSynchronize(stop));
    float ms = 0;
    check(cudaEventElapsedTime(&ms, start, stop));
    times.push_back(ms);
  }
  std::sort(times.begin(), times.end());
  const double median = (times[4] + times[5]) / 2;
  std::printf("%-44s %9.4f ms (%.4f .. %.4f)", name, median, times.front(), times.back());
  if (bytes > 0) std::printf("  %7.1f GB/s", bytes / median * 1e-6);
  if (flops > 0) std::printf("  %7.1f TFLOP/s", flops / median * 1e-9);
  std::printf("\n");
  check(cudaEventDestroy(start));
  check(cudaEventDestroy(stop));
}

void rows() {
  const int64_t n = kTokens * kModel;
  bf16 *a = random_bf16(n * 4), *b = random_bf16(n * 4), *c = random_bf16(n * 4), *out = random_bf16(n * 4);
  const RowsRef<const bf16> ar{a, 4 * kModel}, cr{c, 4 * kModel};
  time_kernel("gelu forward, 4 D wide", 16.0 * n, 0, [&] {
    cuda::activation_forward({Activation::gelu, kTokens, 4 * kModel, ar, {}, {out, 4 * kModel}}, nullptr);
  });
  time_kernel("gelu backward, 4 D wide", 24.0 * n, 0, [&] {
    cuda::activation_backward({Activation::gelu, kTokens, 4 * kModel, ar, {}, cr, {out, 4 * kModel}, {}}, nullptr);
  });
  auto* x = static_cast<float*>(allocate(n * 4));
  auto* sum = static_cast<float*>(allocate(n * 4));
  float *weight = random_float(kModel), *rstd = random_float(kTokens);
  auto* d_weight = static_cast<float*>(allocate(kModel * 4));
  void* scratch = allocate(cuda::add_rms_norm_backward_scratch_bytes(kTokens, kModel));
  time_kernel("add + RMSNorm forward", 12.0 * n, 0, [&] {
    cuda::add_rms_norm_forward(AddRmsNormForward<bf16>{kTokens, kModel, 1e-6f, x, a, weight, sum, out, rstd}, nullptr);
  });
  time_kernel("add + RMSNorm backward", 14.0 * n, 0, [&] {
    cuda::add_rms_norm_backward(AddRmsNormBackward<bf16>{kTokens, kModel, b, weight, rstd, c, x, x, out, d_weight},
                                scratch, nullptr);
  });
  std::vector<float> cos(static_cast<std::size_t>(kLength * kDim / 2)), sin(cos.size());
  rope_table(kLength, kDim, 10000, cos.data(), sin.data());
  std::vector<int32_t> position;
  for (int64_t i = 0; i < kTokens; ++i) position.push_back(static_cast<int32_t>(i % kLength));
  float *cos_d = upload(cos), *sin_d = upload(sin);
  int32_t* position_d = upload(position);
  time_kernel("RoPE", 4.0 * n, 0, [&] {
    cuda::rope(
        Rope<bf16>{kTokens, kHeads, kDim, position_d, cos_d, sin_d, false, {a, kModel, kDim}, {out, kModel, kDim}},
        nullptr);
  });
  constexpr int64_t kVocabulary = 32000, kRows = 8192;
  bf16* logits = random_bf16(kRows * kVocabulary);
  int64_t* target = upload(std::vector<int64_t>(kRows, 5));
  time_kernel("cross-entropy with gradient, 8192 x 32000", 4.0 * kRows * kVocabulary, 0, [&] {
    cuda::cross_entropy(CrossEntropy<bf16>{kRows, kVocabulary, {logits, kVocabulary}, target, nullptr, true, rstd},
                        nullptr);
  });
  std::vector<ScanSegment> table;
  for (int32_t s = 0; s < kBatch; ++s) table.push_back({s * 4096, (s + 1) * 4096, -1, -1});
  ScanSegment* table_d = upload(table);
  GatedScanForward<bf16> f;
  f.tokens = kTokens, f.channels = kModel, f.segments = kBatch, f.table = table_d;
  f.x = {a, kModel}, f.gate = {b, kModel}, f.gate_bias = weight, f.h = {out, kModel};
  void* forward_scratch = allocate(cuda::gated_scan_forward_scratch_bytes(kTokens, kModel, kBatch));
  time_kernel("gated scan forward", 6.0 * n, 0, [&] { cuda::gated_scan_forward(f, forward_scratch, nullptr); });
  GatedScanBackward<bf16> g;
  g.tokens = kTokens, g.channels = kModel, g.segments = kBatch, g.table = table_d;
  g.x = f.x, g.gate = f.gate, g.gate_bias = weight, g.d_h = {c, kModel}, g.d_x = {out, kModel};
  g.d_gate = {out + n, kModel}, g.d_gate_bias = d_weight;
  void* scan_scratch = allocate(cuda::gated_scan_backward_scratch_bytes(kTokens, kModel, kBatch));
  time_kernel("gated scan backward", 10.0 * n, 0, [&] { cuda::gated_scan_backward(g, scan_scratch, nullptr); });
  for (void* p : std::initializer_list<void*>{a, b, c, out, x, sum, logits, forward_scratch, scan_scratch, scratch})
    check(cudaFree(p));
}

void attention() {
  const int64_t n = kTokens * kModel;
  bf16 *q = random_bf16(n), *k = random_bf16(n), *v = random_bf16(n), *o = random_bf16(n), *d_o = random_bf16(n);
  bf16 *dq = random_bf16(n), *dk = random_bf16(n), *dv = random_bf16(n);
  auto* lse = static_cast<float*>(allocate(kTokens * kHeads * 4));
  for (int64_t window : {kLength, int64_t{1024}}) {
    std::vector<int32_t> begin, end;
    double pairs = 0;
    for (int64_t i = 0; i < kTokens; ++i) {
      const int64_t first = std::max(i / kLength * kLength, i - window);
      begin.push_back(static_cast<int32_t>(first)), end.push_back(static_cast<int32_t>(i + 1));
      pairs += static_cast<double>(i + 1 - first);
    }
    AttentionForward<bf16> f;
    f.queries = f.keys = kTokens, f.heads = f.kv_heads = kHeads, f.dim = kDim, f.scale = 1 / std::sqrt(128.0f);
    f.begin = upload(begin), f.end = upload(end), f.lse = lse, f.o = {o, kModel, kDim};
    f.q = {q, kModel, kDim}, f.k = {k, kModel, kDim}, f.v = {v, kModel, kDim};
    const double product = 2 * pairs * kModel;
    const bool causal = window == kLength;
    time_kernel(causal ? "causal attention forward" : "window 1024 forward", 0, 2 * product,
                [&] { cuda::attention_forward(f, nullptr); });
    AttentionBackward<bf16> b;
    b.queries = b.keys = kTokens, b.heads = b.kv_heads = kHeads, b.dim = kDim, b.scale = f.scale;
    b.begin = f.begin, b.end = f.end, b.lse = lse, b.q = f.q, b.k = f.k, b.v = f.v;
    b.o = {o, kModel, kDim}, b.d_o = {d_o, kModel, kDim};
    b.dq = {dq, kModel, kDim}, b.dk = {dk, kModel, kDim}, b.dv = {dv, kModel, kDim};
    void* scratch = allocate(cuda::attention_backward_scratch_bytes(b));
    time_kernel(causal ? "causal attention backward" : "window 1024 backward", 0, 5 * product,
                [&] { cuda::attention_backward(b, scratch, nullptr); });
    check(cudaFree(scratch));
  }
  // One token of 64 sequences over 4,095 cached keys would need 64 * 4,096 rows; 8 have them here.
  std::vector<int32_t> begin, end;
  for (int32_t s = 0; s < kBatch; ++s) begin.push_back(s * 4096), end.push_back((s + 1) * 4096);
  AttentionForward<bf16> f;
  f.queries = kBatch, f.keys = kTokens, f.heads = f.kv_heads = kHeads, f.dim = kDim, f.scale = 0.1f;
  f.begin = upload(begin), f.end = upload(end), f.lse = lse, f.o = {o, kModel, kDim};
  f.q = {q, kModel, kDim}, f.k = {k, kModel, kDim}, f.v = {v, kModel, kDim};
  time_kernel("attention, one token of 8 sequences", 4.0 * n, 0, [&] { cuda::attention_forward(f, nullptr); });
  for (void* p : std::initializer_list<void*>{q, k, v, o, d_o, dq, dk, dv, lse}) check(cudaFree(p));
}

void rat() {
  constexpr int64_t kChunks = kLength / kChunk;
  std::vector<RatChunk> table, steps;
  for (int32_t s = 0; s < kBatch; ++s) {
    for (int32_t c = 0; c < kChunks; ++c) {
      const int32_t begin = s * 4096 + c * 16, base = s * 256;
      table.push_back({begin, begin + 16, base, base + c, c, -1, -1});
    }
  }
  RatShape shape{kTokens, kHeads, kGroups, kDim, kBatch * kChunks, kBatch * kChunks, kChunk};
  const int64_t n = kTokens * kModel, width = shape.width();
  std::vector<float> cos(static_cast<std::size_t>(kChunks * kDim / 2)), sin(cos.size());
  rope_table(kChunks, kDim, 10000, cos.data(), sin.data());
  constexpr int64_t kSequences = 512;
  bf16 *proj = random_bf16(kTokens * width), *d_proj = random_bf16(kTokens * width);
  bf16 *out = random_bf16(n), *d_out = random_bf16(n);
  bf16 *ends_k = random_bf16(kSequences * kChunks * kModel), *ends_v = random_bf16(kSequences * kChunks * kModel);
  auto* lse = static_cast<float*>(allocate(kTokens * kHeads * 4));
  RatForward<bf16> f;
  f.shape = shape, f.table = upload(table), f.proj = {proj, width}, f.gate_bias = random_float(kModel);
  f.cos = upload(cos), f.sin = upload(sin), f.ends_k = {ends_k, kModel, kDim}, f.ends_v = {ends_v, kModel, kDim};
  f.out = {out, kModel}, f.lse = lse;
  const int64_t forward_bytes = cuda::rat_forward_scratch_bytes(f),
                backward_bytes = cuda::rat_backward_scratch_bytes(shape);
  void* scratch = allocate(std::max(forward_bytes, backward_bytes));
  std::printf("RAT scratch: forward %.1f MB, backward %.1f MB\n", forward_bytes * 1e-6, backward_bytes * 1e-6);
  // proj read, out, y and ends written; the scores over the ends.
  const double product = 2.0 * kTokens * (kChunks - 1) / 2 * kModel;
  time_kernel("RAT forward", 2.0 * kTokens * width + 4.0 * n + 4.0 * n / kChunk, 2 * product,
              [&] { cuda::rat_forward(f, scratch, nullptr); });
  RatBackward<bf16> b;
  b.shape = shape, b.table = f.table, b.proj = f.proj, b.gate_bias = f.gate_bias, b.cos = f.cos, b.sin = f.sin;
  b.ends_k = {ends_k, kModel, kDim}, b.ends_v = {ends_v, kModel, kDim}, b.out = {out, kModel}, b.lse = lse;
  b.d_out = {d_out, kModel}, b.d_proj = {d_proj, width};
  b.d_gate_bias = static_cast<float*>(allocate(kModel * 4));
  b.d_ends_k = {static_cast<float*>(allocate(n / kChunk * 4)), kModel, kDim};
  b.d_ends_v = {static_cast<float*>(allocate(n / kChunk * 4)), kModel, kDim};
  time_kernel("RAT backward", 4.0 * kTokens * width + 4.0 * n + 4.0 * n / kChunk, 5 * product,
              [&] { cuda::rat_backward(b, scratch, nullptr); });

  // One token of 512 sequences at position 4,095: the last of the last chunk.
  for (int32_t s = 0; s < kSequences; ++s) steps.push_back({s, s + 1, s * 256, s * 256 + 255, 255, s, s});
  f.shape.tokens = f.shape.chunks = kSequences, f.shape.ends = kSequences * kChunks, f.table = upload(steps);
  f.running_k = {random_float(kSequences * kModel), kModel, kDim};
  f.running_v = {random_float(kSequences * kModel), kModel, kDim};
  f.final_k = {const_cast<float*>(f.running_k.data), kModel, kDim};
  f.final_v = {const_cast<float*>(f.running_v.data), kModel, kDim};
  f.lse = nullptr;
  if (cuda::rat_forward_scratch_bytes(f) > std::max(forward_bytes, backward_bytes))
    fail("the scratch memory is too small for one token");
  time_kernel("RAT, one token of 512 sequences at 4095", 4.0 * kSequences * kChunks * kModel, 0,
              [&] { cuda::rat_forward(f, scratch, nullptr); });
}

int main() {
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, 0));
  std::printf("%s, %d multiprocessors\n", properties.name, properties.multiProcessorCount);
  rows();
  attention();
  rat();
  check(cudaDeviceSynchronize());
  return 0;
}

}  // namespace rattan::kernels::kernels_cuda_bench_file

int main() {
  try {
    return rattan::kernels::kernels_cuda_bench_file::main();
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
