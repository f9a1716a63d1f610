// Times of the mixing kernels: RAT and interval attention, forward and backward, and decode. Arguments are those
// of a layer of d_model 512 with 8 heads of 64 (RAT: 2 groups, L = 16).
#include <benchmark/benchmark.h>

#include <algorithm>
#include <type_traits>
#include <vector>

#include "rattan/kernels/attention.h"
#include "rattan/kernels/rat.h"
#include "rattan/kernels/rope.h"

namespace rattan::kernels::mixing_bench_file {

constexpr int64_t heads = 8, dim = 64, groups = 2, width = heads * dim;

template <class T>
std::vector<T> noise(int64_t n, float scale = 1) {
  std::vector<T> out(static_cast<std::size_t>(n));
  // A cheap generator: only the magnitudes matter here.
  uint32_t state = 12345;
  for (T& x : out) {
    state = state * 1664525u + 1013904223u;
    float value = scale * (static_cast<float>(state >> 8) * 0x1p-23f - 1);
    if constexpr (std::is_same_v<T, bf16>) {
      x = to_bf16(value);
    } else {
      x = value;
    }
  }
  return out;
}

// `batch` sequences of `tokens`, of which `prior` lie in the cache already.
template <class T>
struct Rat {
  RatShape shape;
  std::vector<RatChunk> table;
  std::vector<T> proj, out, ends_k, ends_v, d_out, d_proj;
  std::vector<float> bias, cos, sin, lse, d_ends_k, d_ends_v, state_k, state_v, d_bias;

  Rat(int64_t batch, int64_t tokens, int64_t chunk, int64_t prior) {
    int64_t chunks = (prior + tokens + chunk - 1) / chunk;
    for (int64_t b = 0; b < batch; ++b) {
      for (int64_t t = 0; t < tokens;) {
        int64_t c = (prior + t) / chunk, open = (prior + t) % chunk, end = std::min(tokens, t + chunk - open);
        RatChunk entry{};
        entry.begin = static_cast<int32_t>(b * tokens + t), entry.end = static_cast<int32_t>(b * tokens + end);
        entry.first = static_cast<int32_t>(b * chunks), entry.slot = static_cast<int32_t>(b * chunks + c);
        entry.position = static_cast<int32_t>(c);
        entry.from = open > 0 ? static_cast<int32_t>(b) : -1, entry.to = end == tokens ? static_cast<int32_t>(b) : -1;
        table.push_back(entry);
        t = end;
      }
    }
    shape.tokens = batch * tokens, shape.heads = heads, shape.groups = groups, shape.dim = dim;
    shape.chunks = static_cast<int64_t>(table.size()), shape.ends = batch * chunks, shape.max_chunk = chunk;
    proj = noise<T>(shape.tokens * shape.width());
    d_out = noise<T>(shape.tokens * width);
    ends_k = noise<T>(shape.ends * width), ends_v = noise<T>(shape.ends * width);
    out.resize(d_out.size()), d_proj.resize(proj.size());
    bias = noise<float>(width), d_bias.resize(width);
    state_k = state_v = noise<float>(batch * width);
    lse.resize(static_cast<std::size_t>(shape.tokens * heads));
    d_ends_k.resize(ends_k.size()), d_ends_v.resize(ends_v.size());
    cos.resize(static_cast<std::size_t>(chunks * dim / 2)), sin.resize(cos.size());
    rope_table(chunks, dim, 10000, cos.data(), sin.data());
  }
  void forward(bool saving) {
    RatForward<T> a;
    a.shape = shape, a.table = table.data();
    a.proj = {proj.data(), shape.width()};
    a.gate_bias = bias.data(), a.cos = cos.data(), a.sin = sin.data();
    a.ends_k = {ends_k.data(), width, dim}, a.ends_v = {ends_v.data(), width, dim};
    a.running_k = {state_k.data(), width, dim}, a.running_v = {state_v.data(), width, dim};
    a.final_k = {state_k.data(), width, dim}, a.final_v = {state_v.data(), width, dim};
    a.out = {out.data(), width};
    if (saving) a.lse = lse.data();
    rat_forward(a);
  }
  void backward() {
    RatBackward<T> a;
    a.shape = shape, a.table = table.data();
    a.proj = {proj.data(), shape.width()};
    a.gate_bias = bias.data(), a.cos = cos.data(), a.sin = sin.data();
    a.ends_k = {ends_k.data(), width, dim}, a.ends_v = {ends_v.data(), width, dim};
    a.out = {out.data(), width}, a.lse = lse.data(), a.d_out = {d_out.data(), width};
    a.d_proj = {d_proj.data(), shape.width()}, a.d_gate_bias = d_bias.data();
    a.d_ends_k = {d_ends_k.data(), width, dim}, a.d_ends_v = {d_ends_v.data(), width, dim};
    rat_backward(a);
  }
};

template <class T>
struct Attention {
  int64_t queries, keys;
  std::vector<int32_t> begin, end;
  std::vector<T> q, k, v, o, d_o, dq, dk, dv;
  std::vector<float> lse;

  // `batch` sequences of `tokens` queries on `length` keys; window 0: causal.
  Attention(int64_t batch, int64_t tokens, int64_t length, int64_t window)
      : queries(batch * tokens), keys(batch * length) {
    for (int64_t b = 0; b < batch; ++b) {
      for (int64_t t = 0; t < tokens; ++t) {
        int64_t last = length - tokens + t + 1, first = window > 0 ? std::max<int64_t>(0, last - window) : 0;
        begin.push_back(static_cast<int32_t>(b * length + first));
        end.push_back(static_cast<int32_t>(b * length + last));
      }
    }
    q = noise<T>(queries * width), d_o = q, k = noise<T>(keys * width), v = k;
    o.resize(q.size()), dq.resize(q.size()), dk.resize(k.size()), dv.resize(k.size());
    lse.resize(static_cast<std::size_t>(queries * heads));
  }
  void forward() {
    AttentionForward<T> a;
    a.queries = queries, a.keys = keys, a.heads = a.kv_heads = heads, a.dim = dim, a.scale = 0.125f;
    a.begin = begin.data(), a.end = end.data();
    a.q = {q.data(), width, dim}, a.k = {k.data(), width, dim}, a.v = {v.data(), width, dim};
    a.o = {o.data(), width, dim}, a.lse = lse.data();
    attention_forward(a);
  }
  void backward() {
    AttentionBackward<T> a;
    a.queries = queries, a.keys = keys, a.heads = a.kv_heads = heads, a.dim = dim, a.scale = 0.125f;
    a.begin = begin.data(), a.end = end.data();
    a.q = {q.data(), width, dim}, a.k = {k.data(), width, dim}, a.v = {v.data(), width, dim};
    a.o = {o.data(), width, dim}, a.d_o = {d_o.data(), width, dim}, a.lse = lse.data();
    a.dq = {dq.data(), width, dim}, a.dk = {dk.data(), width, dim}, a.dv = {dv.data(), width, dim};
    attention_backward(a);
  }
};

template <class T>
void rat_forward_bench(benchmark::State& state) {
  Rat<T> rat(state.range(1), state.range(0), state.range(2), 0);
  for (auto _ : state) rat.forward(true);
}
template <class T>
void rat_backward_bench(benchmark::State& state) {
  Rat<T> rat(state.range(1), state.range(0), state.range(2), 0);
  rat.forward(true);
  for (auto _ : state) rat.backward();
}
template <class T>
void rat_decode(benchmark::State& state) {
  Rat<T> rat(state.range(1), 1, 16, state.range(0));
  for (auto _ : state) rat.forward(false);
}
template <class T>
void attention_forward_bench(benchmark::State& state) {
  Attention<T> attention(state.range(1), state.range(0), state.range(0), state.range(2));
  for (auto _ : state) attention.forward();
}
template <class T>
void attention_backward_bench(benchmark::State& state) {
  Attention<T> attention(state.range(1), state.range(0), state.range(0), state.range(2));
  attention.forward();
  for (auto _ : state) attention.backward();
}
template <class T>
void attention_decode(benchmark::State& state) {
  Attention<T> attention(state.range(1), 1, state.range(0), 0);
  for (auto _ : state) attention.forward();
}

void rat_lengths(benchmark::internal::Benchmark* b) {
  b->ArgNames({"T", "B", "L"})->UseRealTime()->Unit(benchmark::kMillisecond);
  b->Args({2048, 4, 16})->Args({8192, 1, 16})->Args({32768, 1, 16});
}
void attention_lengths(benchmark::internal::Benchmark* b) {
  b->ArgNames({"T", "B", "window"})->UseRealTime()->Unit(benchmark::kMillisecond);
  b->Args({2048, 4, 0})->Args({8192, 1, 0})->Args({8192, 1, 1024});
}
void positions(benchmark::internal::Benchmark* b) {
  b->ArgNames({"position", "B"})->UseRealTime()->Unit(benchmark::kMicrosecond);
  b->Args({4096, 1})->Args({16384, 1})->Args({16384, 8})->Args({4096, 64});
}

BENCHMARK_TEMPLATE(rat_forward_bench, float)->Apply(rat_lengths);
BENCHMARK_TEMPLATE(rat_forward_bench, bf16)->Apply(rat_lengths);
BENCHMARK_TEMPLATE(rat_backward_bench, float)->Apply(rat_lengths);
BENCHMARK_TEMPLATE(rat_backward_bench, bf16)->Apply(rat_lengths);
BENCHMARK_TEMPLATE(rat_decode, float)->Apply(positions);
BENCHMARK_TEMPLATE(rat_decode, bf16)->Apply(positions);
BENCHMARK_TEMPLATE(attention_forward_bench, float)->Apply(attention_lengths);
BENCHMARK_TEMPLATE(attention_forward_bench, bf16)->Apply(attention_lengths);
BENCHMARK_TEMPLATE(attention_backward_bench, float)->Apply(attention_lengths);
BENCHMARK_TEMPLATE(attention_backward_bench, bf16)->Apply(attention_lengths);
BENCHMARK_TEMPLATE(attention_decode, float)->Apply(positions);
BENCHMARK_TEMPLATE(attention_decode, bf16)->Apply(positions);

}  // namespace rattan::kernels::mixing_bench_file
