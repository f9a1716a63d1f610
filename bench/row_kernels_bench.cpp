// The memory-bound kernels at the sizes of a small model's training step, in bytes per second of what they must
// read and write at least, beside a plain copy of as many bytes.
#include <benchmark/benchmark.h>

#include <cstring>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "rattan/base/parallel.h"
#include "rattan/base/random.h"
#include "rattan/kernels/activation.h"
#include "rattan/kernels/cross_entropy.h"
#include "rattan/kernels/gated_scan.h"
#include "rattan/kernels/rms_norm.h"
#include "rattan/kernels/rope.h"

namespace rattan::kernels::row_kernels_bench_file {

constexpr int64_t rows = 4096, dim = 512, hidden = 2048, vocabulary = 2048;

template <class T>
std::vector<T> values(int64_t count, double scale = 1) {
  Rng rng(1);
  std::vector<T> out(static_cast<std::size_t>(count));
  // Repeats after a while: kernels do not see it, and making normal numbers is slow.
  constexpr std::size_t period = 65536;
  for (std::size_t i = 0; i < out.size(); ++i) {
    if (i >= period) {
      out[i] = out[i - period];
    } else if constexpr (std::is_same_v<T, bf16>) {
      out[i] = to_bf16(static_cast<float>(scale * rng.normal()));
    } else {
      out[i] = static_cast<T>(scale * rng.normal());
    }
  }
  return out;
}

template <class Run>
void measure(benchmark::State& state, int64_t bytes, Run&& run) {
  run();
  for (auto _ : state) {
    run();
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * bytes);
}

void copy(benchmark::State& state) {
  int64_t bytes = state.range(0) << 20, piece = 32768;
  std::vector<char> from(static_cast<std::size_t>(bytes), 1), to(static_cast<std::size_t>(bytes));
  measure(state, 2 * bytes, [&] {
    parallel_for(bytes / piece, [&](int64_t i) { std::memcpy(to.data() + i * piece, from.data() + i * piece, piece); });
  });
}

template <class T>
void gated_scan(benchmark::State& state, bool backward, int32_t length) {
  std::vector<ScanSegment> table;
  for (int32_t begin = 0; begin < rows; begin += length) table.push_back({begin, begin + length, -1, -1});
  auto x = values<T>(rows * dim), gate = values<T>(rows * dim), d_h = values<T>(rows * dim);
  auto bias = values<float>(dim);
  std::vector<T> h(x.size()), d_x(x.size()), d_gate(x.size());
  std::vector<float> d_bias(dim);
  GatedScanForward<T> f;
  f.tokens = rows;
  f.channels = dim;
  f.segments = static_cast<int64_t>(table.size());
  f.table = table.data();
  f.x = {x.data(), dim};
  f.gate = {gate.data(), dim};
  f.gate_bias = bias.data();
  f.h = {h.data(), dim};
  GatedScanBackward<T> b;
  b.tokens = rows;
  b.channels = dim;
  b.segments = f.segments;
  b.table = table.data();
  b.x = f.x;
  b.gate = f.gate;
  b.gate_bias = bias.data();
  b.d_h = {d_h.data(), dim};
  b.d_x = {d_x.data(), dim};
  b.d_gate = {d_gate.data(), dim};
  b.d_gate_bias = d_bias.data();
  int64_t bytes = rows * dim * static_cast<int64_t>(sizeof(T));
  backward ? measure(state, 5 * bytes, [&] { gated_scan_backward(b); })
           : measure(state, 3 * bytes, [&] { gated_scan_forward(f); });
}

template <class T>
void rope(benchmark::State& state) {
  constexpr int64_t heads = 8, head_dim = dim / heads;
  auto x = values<T>(rows * dim);
  std::vector<T> out(x.size());
  std::vector<float> cos(rows * head_dim / 2), sin(cos.size());
  rope_table(rows, head_dim, 10000, cos.data(), sin.data());
  std::vector<int32_t> position;
  for (int32_t i = 0; i < rows; ++i) position.push_back(i);
  Rope<T> a{rows, heads, head_dim, position.data(), cos.data(), sin.data(), false, {}, {}};
  a.x = {x.data(), dim, head_dim};
  a.out = {out.data(), dim, head_dim};
  measure(state, 2 * rows * dim * static_cast<int64_t>(sizeof(T)), [&] { kernels::rope(a); });
}

template <class T>
void rms_norm(benchmark::State& state, bool backward) {
  auto x = values<float>(rows * dim), weight = values<float>(dim), through = values<float>(rows * dim);
  auto branch = values<T>(rows * dim), d_y = values<T>(rows * dim);
  std::vector<float> sum(x.size()), rstd(rows), d_sum(x.size()), d_weight(dim);
  std::vector<T> y(x.size()), d_branch(x.size());
  AddRmsNormForward<T> f{rows, dim, 1e-6f, x.data(), branch.data(), weight.data(), sum.data(), y.data(), rstd.data()};
  AddRmsNormBackward<T> b;
  b.rows = rows;
  b.dim = dim;
  b.sum = x.data();
  b.weight = weight.data();
  b.rstd = rstd.data();
  b.d_y = d_y.data();
  b.d_sum_in = through.data();
  b.d_sum = d_sum.data();
  b.d_branch = d_branch.data();
  b.d_weight = d_weight.data();
  add_rms_norm_forward(f);
  int64_t size = sizeof(T);
  backward ? measure(state, rows * dim * (12 + 2 * size), [&] { add_rms_norm_backward(b); })
           : measure(state, rows * dim * (8 + 2 * size), [&] { add_rms_norm_forward(f); });
}

template <class T>
void activation(benchmark::State& state, Activation kind, bool backward) {
  bool two = kind != Activation::gelu;
  auto x = values<T>(rows * hidden), y = values<T>(rows * hidden), d = values<T>(rows * hidden);
  std::vector<T> out(x.size()), second(x.size());
  ActivationForward<T> f{kind, rows, hidden, {x.data(), hidden}, {y.data(), hidden}, {out.data(), hidden}};
  ActivationBackward<T> b{kind,
                          rows,
                          hidden,
                          {x.data(), hidden},
                          {y.data(), hidden},
                          {d.data(), hidden},
                          {out.data(), hidden},
                          {second.data(), hidden}};
  int64_t bytes = rows * hidden * static_cast<int64_t>(sizeof(T));
  backward ? measure(state, (two ? 5 : 3) * bytes, [&] { activation_backward(b); })
           : measure(state, (two ? 3 : 2) * bytes, [&] { activation_forward(f); });
}

// Gradients in place become logits of the next round; their values stay harmless.
template <class T>
void cross_entropy(benchmark::State& state) {
  auto logits = values<T>(rows * vocabulary, 3);
  std::vector<int64_t> target;
  for (int64_t i = 0; i < rows; ++i) target.push_back(i * 7 % vocabulary);
  std::vector<float> loss(rows);
  CrossEntropy<T> a{rows, vocabulary, {logits.data(), vocabulary}, target.data(), nullptr, true, loss.data()};
  measure(state, 2 * rows * vocabulary * static_cast<int64_t>(sizeof(T)), [&] { kernels::cross_entropy(a); });
}

template <class F32, class Bf16>
void both(const std::string& name, F32 f32, Bf16 bf16) {
  benchmark::RegisterBenchmark((name + "/f32").c_str(), f32)->UseRealTime()->Unit(benchmark::kMicrosecond);
  benchmark::RegisterBenchmark((name + "/bf16").c_str(), bf16)->UseRealTime()->Unit(benchmark::kMicrosecond);
}

const bool registered = [] {
  using benchmark::State;
  for (int mib : {4, 16}) {
    std::string name = "copy/MiB:" + std::to_string(mib);
    benchmark::RegisterBenchmark(name.c_str(), copy)->Arg(mib)->UseRealTime()->Unit(benchmark::kMicrosecond);
  }
  for (bool back : {false, true}) {
    std::string direction = back ? "/backward" : "/forward";
    for (int32_t length : {4096, 16}) {
      both(
          "gated_scan" + direction + "/segments_of:" + std::to_string(length),
          [=](State& s) { gated_scan<float>(s, back, length); }, [=](State& s) { gated_scan<bf16>(s, back, length); });
    }
    both(
        "add_rms_norm" + direction, [=](State& s) { rms_norm<float>(s, back); },
        [=](State& s) { rms_norm<bf16>(s, back); });
    using enum Activation;
    for (auto [kind, name] : {std::pair{gelu, "gelu"}, {swiglu, "swiglu"}, {sigmoid_mul, "sigmoid_mul"}}) {
      both(
          name + direction, [=](State& s) { activation<float>(s, kind, back); },
          [=](State& s) { activation<bf16>(s, kind, back); });
    }
  }
  both("rope", rope<float>, rope<bf16>);
  both("cross_entropy", cross_entropy<float>, cross_entropy<bf16>);
  return true;
}();

}  // namespace rattan::kernels::row_kernels_bench_file
