// The elementwise CUDA kernels (activation, rope) against the float64 references.
#include <array>

#include "rattan/kernels/activation.h"
#include "rattan/kernels/ref/activation_ref.h"
#include "rattan/kernels/ref/rope_ref.h"
#include "rattan/kernels/rope.h"
#include "tests/kernels_cuda/cuda_test_util.h"

namespace rattan::kernels::elementwise_cuda_test_file {

template <class T>
class ElementwiseCuda : public ::testing::Test {};
using Types = ::testing::Types<float, bf16>;
TYPED_TEST_SUITE(ElementwiseCuda, Types);

struct Shape {
  int64_t rows, dim, padding;
};
// Rows that allow 16-byte accesses and rows that do not.
const Shape kShapes[] = {{1, 1, 0}, {7, 33, 2}, {33, 64, 0}, {129, 256, 8}, {5, 1030, 6}};

// One rounding of the output; fp32 adds those of the exponential or error function.
template <class T>
constexpr double bound = std::is_same_v<T, bf16> ? rounding<bf16>() : 8 * rounding<float>();

TYPED_TEST(ElementwiseCuda, ActivationIsTheFormula) {
  RATTAN_NEEDS_GPU();
  using T = TypeParam;
  uint64_t seed = 1000;
  for (Activation kind : {Activation::gelu, Activation::swiglu, Activation::sigmoid_mul}) {
    for (auto [rows, dim, padding] : kShapes) {
      SCOPED_TRACE(::testing::Message() << "seed " << seed << ", kind " << static_cast<int>(kind) << ", " << rows
                                        << " x " << dim);
      Rng rng(seed++);
      auto a = normal_on_device<T>(rng, rows, dim, padding, 2), b = normal_on_device<T>(rng, rows, dim, padding);
      auto d = normal_on_device<T>(rng, rows, dim, padding);
      DeviceRows<T> out(rows, dim, padding), d_a(rows, dim, padding), d_b(rows, dim, padding);
      cuda::activation_forward({kind, rows, dim, a.view(), b.view(), out.ref()}, nullptr);
      cuda::activation_backward({kind, rows, dim, a.view(), b.view(), d.view(), d_a.ref(), d_b.ref()}, nullptr);
      const auto x = a.host().values(), y = b.host().values(), dy = d.host().values();
      std::vector<double> expected, expected_a, expected_b;
      for (std::size_t i = 0; i < x.size(); ++i) {
        expected.push_back(ref::activation(kind, x[i], y[i]));
        const auto g = ref::activation_gradient(kind, x[i], y[i], dy[i]);
        expected_a.push_back(g.d_a);
        expected_b.push_back(g.d_b);
      }
      EXPECT_LE(relative_rms_error(out.pull().values(), expected), bound<T>);
      EXPECT_LE(relative_rms_error(d_a.pull().values(), expected_a), bound<T>);
      EXPECT_TRUE(out.host().padding_untouched() && d_a.host().padding_untouched());
      if (kind == Activation::gelu) continue;
      EXPECT_LE(relative_rms_error(d_b.pull().values(), expected_b), bound<T>);
      EXPECT_TRUE(d_b.host().padding_untouched());
    }
  }
}

TYPED_TEST(ElementwiseCuda, RopeIsTheRotation) {
  RATTAN_NEEDS_GPU();
  using T = TypeParam;
  constexpr int64_t kPositions = 50;
  uint64_t seed = 1100;
  for (auto [rows, heads, dim] : {std::array<int64_t, 3>{1, 1, 2}, {9, 3, 6}, {40, 2, 64}, {33, 5, 128}, {3, 1, 256}}) {
    for (bool inverse : {false, true}) {
      SCOPED_TRACE(::testing::Message() << "seed " << seed << ", " << rows << " x " << heads << " x " << dim);
      Rng rng(seed++);
      const int64_t padding = rows % 2 ? 3 : 0;
      auto x = normal_on_device<T>(rng, rows, heads * dim, padding);
      DeviceRows<T> out(rows, heads * dim, padding);
      std::vector<float> cos(static_cast<std::size_t>(kPositions * dim / 2)), sin(cos.size());
      rope_table(kPositions, dim, 10000, cos.data(), sin.data());
      std::vector<int32_t> position;
      for (int64_t r = 0; r < rows; ++r) position.push_back(static_cast<int32_t>(rng.below(kPositions)));
      DeviceVector<float> cos_d(cos), sin_d(sin);
      DeviceVector<int32_t> position_d(position);
      Rope<T> a{rows,          heads, dim, position_d.data(), cos_d.data(), sin_d.data(), inverse, x.heads_view(dim),
                out.heads(dim)};
      cuda::rope(a, nullptr);
      const auto expected = ref::rope(x.host().values(), position, heads, dim, 10000, inverse);
      EXPECT_LE(relative_rms_error(out.pull().values(), expected), bound<T>);
      EXPECT_TRUE(out.host().padding_untouched());
      a.out = x.heads(dim);  // in place
      cuda::rope(a, nullptr);
      EXPECT_TRUE(x.pull() == out.host());
    }
  }
}

TEST(ElementwiseCudaLarge, OffsetsBeyond31Bits) {
  RATTAN_NEEDS_GPU();
  constexpr int64_t kRows = 256, kDim = 2048, kTimes = 4097;
  if (memory_is_short(int64_t{6} * kRows * kDim * kTimes * 2)) GTEST_SKIP() << "not enough device memory";
  Rng rng(1200);
  {
    Repeated<bf16> a(rng, kRows * kDim, kTimes), b(rng, kRows * kDim, kTimes), d(rng, kRows * kDim, kTimes);
    Repeated<bf16> out(kRows * kDim, kTimes), d_b(kRows * kDim, kTimes);
    const int64_t rows = kRows * kTimes;
    RowsRef<const bf16> av{a.data(), kDim}, bv{b.data(), kDim}, dv{d.data(), kDim};
    cuda::activation_forward({Activation::swiglu, rows, kDim, av, bv, {out.data(), kDim}}, nullptr);
    out.expect_last_is_first("out");
    cuda::activation_backward({Activation::swiglu, rows, kDim, av, bv, dv, {out.data(), kDim}, {d_b.data(), kDim}},
                              nullptr);
    out.expect_last_is_first("d_a");
    d_b.expect_last_is_first("d_b");
  }
  Repeated<bf16> x(rng, kRows * kDim, kTimes), out(kRows * kDim, kTimes);
  std::vector<float> cos(64), sin(64);
  rope_table(1, 128, 10000, cos.data(), sin.data());
  DeviceVector<float> cos_d(cos), sin_d(sin);
  DeviceVector<int32_t> position(std::vector<int32_t>(static_cast<std::size_t>(kRows * kTimes), 0));
  cuda::rope(Rope<bf16>{kRows * kTimes,
                        16,
                        128,
                        position.data(),
                        cos_d.data(),
                        sin_d.data(),
                        false,
                        {x.data(), kDim, 128},
                        {out.data(), kDim, 128}},
             nullptr);
  out.expect_last_is_first("rope");
}

TYPED_TEST(ElementwiseCuda, SizesMayBeZero) {
  RATTAN_NEEDS_GPU();
  using T = TypeParam;
  cuda::activation_forward(ActivationForward<T>{}, nullptr);
  cuda::activation_backward(ActivationBackward<T>{}, nullptr);
  cuda::rope(Rope<T>{}, nullptr);
  expect_success(cudaDeviceSynchronize(), "nothing to do");
}

}  // namespace rattan::kernels::elementwise_cuda_test_file
