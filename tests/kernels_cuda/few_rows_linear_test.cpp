// The product of few rows on a GPU against float64, alone and in recorded chains, where kernels start early.
#include "rattan/kernels/few_rows_linear.h"

#include <functional>

#include "tests/kernels_cuda/cuda_test_util.h"

namespace rattan::kernels::few_rows_linear_cuda_test_file {

using Device = DeviceRows<bf16>;

FewRowsLinear<bf16> call_of(const Device& x, const Device& w, const Device& y, int64_t rows, int64_t in, int64_t out) {
  FewRowsLinear<bf16> a;
  a.rows = rows, a.in = in, a.out = out;
  a.x = x.view(), a.w = w.view(), a.y = y.ref();
  return a;
}

// As on a processor: a hundred roundings to fp32 of all terms are far above what is met, then one to the result's type.
double allowed(double size, double expected, double unit) { return 100 * 6e-8 * size + unit * std::abs(expected); }

void expect_product(const Rows<bf16>& x, const Rows<bf16>& w, int64_t rows, int64_t in, int64_t out, double unit,
                    const std::function<double(int64_t, int64_t)>& got) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t o = 0; o < out; ++o) {
      double expected = 0, size = 0;
      for (int64_t k = 0; k < in; ++k) {
        const double term = to_double(x.at(r, k)) * to_double(w.at(o, k));
        expected += term, size += std::abs(term);
      }
      ASSERT_NEAR(got(r, o), expected, allowed(size, expected, unit) + 1e-30) << r << ", " << o;
    }
  }
}

// One piece of a warp in part, whole and several; fewer columns than a tile and more tiles than blocks.
const std::tuple<int64_t, int64_t, int64_t> kShapes[] = {{1, 2048, 1500}, {8, 256, 100}, {7, 40, 5},
                                                         {16, 8, 33},     {3, 136, 1},   {2, 4104, 17},
                                                         {9, 2048, 256},  {12, 8192, 24}};

TEST(FewRowsCuda, MatchFloat64) {
  RATTAN_NEEDS_GPU();
  uint64_t seed = 100;
  for (auto [rows, in, out] : kShapes) {
    SCOPED_TRACE(::testing::Message() << "seed " << seed << ": " << rows << " x " << in << " x " << out);
    Rng rng(seed++);
    const auto x = normal_on_device<bf16>(rng, rows, in, 8), w = normal_on_device<bf16>(rng, out, in, 16);
    Device y(rows, out, 3);
    const auto a = call_of(x, w, y, rows, in, out);
    ASSERT_TRUE(cuda::takes_few_rows(a));
    cuda::few_rows_linear(a, nullptr);
    const Rows<bf16>& got = y.pull();
    EXPECT_TRUE(got.padding_untouched());
    expect_product(x.host(), w.host(), rows, in, out, rounding<bf16>(),
                   [&](int64_t r, int64_t o) { return to_double(got.at(r, o)); });
    DeviceRows<float> sum(Rows<float>(rows, out, 5), rows);
    ASSERT_EQ(cudaMemset(sum.data(), 0, static_cast<std::size_t>(rows * (out + 5) * 4)), cudaSuccess);
    cuda::FewRowsEnds ends;
    ends.sum = sum.ref();
    for (int i = 0; i < 2; ++i) cuda::few_rows_linear(a, nullptr, ends);
    const Rows<float>& twice = sum.pull();
    expect_product(x.host(), w.host(), rows, in, out, rounding<float>(),
                   [&](int64_t r, int64_t o) { return to_double(twice.at(r, o)) / 2; });
  }
}

TEST(FewRowsCuda, ARowDoesNotDependOnItsNeighbors) {
  RATTAN_NEEDS_GPU();
  Rng rng(7);
  const int64_t in = 2048, out = 70;
  const auto x = normal_on_device<bf16>(rng, 16, in), w = normal_on_device<bf16>(rng, out, in);
  Device all(16, out);
  cuda::few_rows_linear(call_of(x, w, all, 16, in, out), nullptr);
  all.pull();
  for (int64_t rows = 1; rows < 16; ++rows) {
    Device some(16, out);
    cuda::few_rows_linear(call_of(x, w, some, rows, in, out), nullptr);
    some.pull();
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t o = 0; o < out; ++o)
        ASSERT_EQ(to_double(some.host().at(r, o)), to_double(all.host().at(r, o)))
            << rows << " rows: " << r << ", " << o;
  }
}

// The norm is rounded to bf16 before the product and the product before gelu, as in kernels of their own.
TEST(FewRowsCuda, NormAndGeluInPassingAreTheFormula) {
  RATTAN_NEEDS_GPU();
  uint64_t seed = 300;
  for (auto [rows, in, out] : std::vector<std::tuple<int64_t, int64_t, int64_t>>{
           {1, 2048, 300}, {2, 256, 100}, {2, 2048, 65}, {1, 40, 9}, {2, 1032, 4400}}) {
    SCOPED_TRACE(::testing::Message() << "seed " << seed << ": " << rows << " x " << in << " x " << out);
    Rng rng(seed++);
    const auto stream = normal_on_device<float>(rng, rows, in, 4), weight = normal_on_device<float>(rng, 1, in);
    const auto w = normal_on_device<bf16>(rng, out, in, 16, 0.1);
    cuda::FewRowsEnds ends;
    ends.norm_x = stream.view(), ends.norm_weight = weight.data(), ends.eps = 1e-5f;
    Rows<bf16> x(rows, in);
    for (int64_t r = 0; r < rows; ++r) {
      double squares = 0;
      for (int64_t k = 0; k < in; ++k) squares += std::pow(to_double(stream.host().at(r, k)), 2);
      for (int64_t k = 0; k < in; ++k)
        x.at(r, k) =
            from_double<bf16>(to_double(stream.host().at(r, k)) / std::sqrt(squares / static_cast<double>(in) + 1e-5) *
                              to_double(weight.host().at(0, k)));
    }
    for (bool gelu : {false, true}) {
      ends.gelu = gelu;
      Device y(rows, out, 3);
      FewRowsLinear<bf16> a;
      a.rows = rows, a.in = in, a.out = out, a.w = w.view(), a.y = y.ref();
      ASSERT_TRUE(cuda::takes_few_rows(a, ends));
      cuda::few_rows_linear(a, nullptr, ends);
      EXPECT_TRUE(y.pull().padding_untouched());
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t o = 0; o < out; ++o) {
          double expected = 0, size = 0;
          for (int64_t k = 0; k < in; ++k) {
            const double term = to_double(x.at(r, k)) * to_double(w.host().at(o, k));
            expected += term, size += std::abs(term);
          }
          // A rounding of x to bf16 may fall to the other side; few do, and they have both signs: a hundredth of a unit
          // of all terms. gelu's slope is at most 1.13.
          const double slack = allowed(size, expected, rounding<bf16>()) + 0.01 * rounding<bf16>() * size;
          if (gelu) expected *= 0.5 * std::erfc(-expected / std::sqrt(2.0));
          ASSERT_NEAR(to_double(y.host().at(r, o)), expected, 1.13 * slack + rounding<bf16>() * std::abs(expected))
              << r << ", " << o << (gelu ? ", gelu" : "");
        }
      }
    }
  }
}

TEST(FewRowsCuda, RefuseWhatIsNotOfUnits) {
  RATTAN_NEEDS_GPU();
  const Device x(17, 256), w(8, 256), y(17, 8), odd(8, 256, 3);
  EXPECT_FALSE(cuda::takes_few_rows(call_of(x, w, y, 17, 256, 8)));
  EXPECT_FALSE(cuda::takes_few_rows(call_of(x, odd, y, 3, 256, 8)));
  EXPECT_FALSE(cuda::takes_few_rows(call_of(x, w, y, 3, 250, 8)));
  const DeviceRows<float> stream(3, 4096);
  cuda::FewRowsEnds ends;
  ends.norm_x = stream.view(), ends.norm_weight = stream.data();
  EXPECT_FALSE(cuda::takes_few_rows(call_of(x, w, y, 1, 4096, 8), ends)) << "wider than few_rows_norm_width";
  EXPECT_FALSE(cuda::takes_few_rows(call_of(x, w, y, 3, 2048, 8), ends)) << "more than few_rows_norm";
}

// In a recording a product reads its weight while the one before still makes its rows.
TEST(FewRowsCuda, ARecordedChainIsTheChain) {
  RATTAN_NEEDS_GPU();
  Rng rng(9);
  const int64_t wide = 4096, narrow = 512, rows = 3;
  const auto up = normal_on_device<bf16>(rng, wide, narrow, 0, 0.05),
             down = normal_on_device<bf16>(rng, narrow, wide, 0, 0.02);
  const auto start = normal_on_device<bf16>(rng, rows, narrow);
  Device x(rows, narrow), h(rows, wide);
  cudaStream_t stream = nullptr;
  ASSERT_EQ(cudaStreamCreate(&stream), cudaSuccess);
  auto chain = [&] {
    for (int i = 0; i < 20; ++i) {
      cuda::few_rows_linear(call_of(x, up, h, rows, narrow, wide), stream);
      cuda::few_rows_linear(call_of(h, down, x, rows, wide, narrow), stream);
    }
  };
  auto begin = [&] {
    ASSERT_EQ(cudaMemcpyAsync(x.data(), start.data(), static_cast<std::size_t>(rows * narrow * 2),
                              cudaMemcpyDeviceToDevice, stream),
              cudaSuccess);
  };
  begin(), chain();
  ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  const std::vector<double> expected = x.pull().values();
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t program = nullptr;
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  chain();
  ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  ASSERT_EQ(cudaGraphInstantiate(&program, graph, 0), cudaSuccess);
  for (int i = 0; i < 20; ++i) {
    begin();
    ASSERT_EQ(cudaGraphLaunch(program, stream), cudaSuccess);
    ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
    ASSERT_EQ(x.pull().values(), expected) << "replay " << i;
  }
  cudaGraphExecDestroy(program), cudaGraphDestroy(graph), cudaStreamDestroy(stream);
}

}  // namespace rattan::kernels::few_rows_linear_cuda_test_file
