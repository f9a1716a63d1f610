// The row-wise CUDA kernels (RMSNorm, cross-entropy) against the float64 references.
#include <array>

#include "rattan/kernels/cross_entropy.h"
#include "rattan/kernels/ref/cross_entropy_ref.h"
#include "rattan/kernels/ref/rms_norm_ref.h"
#include "rattan/kernels/rms_norm.h"
#include "tests/kernels_cuda/cuda_test_util.h"

namespace rattan::kernels::row_cuda_test_file {

template <class T>
class RowCuda : public ::testing::Test {};
using Types = ::testing::Types<float, bf16>;
TYPED_TEST_SUITE(RowCuda, Types);

// One rounding of the output; fp32 adds those of a sum over the row and of a few products.
template <class T>
constexpr double bound = std::is_same_v<T, bf16> ? rounding<bf16>() : 12 * rounding<float>();
constexpr double fp32_bound = 12 * 0x1p-24;
// A sum of up to 3,000 rows in fp32.
constexpr double sum_bound = 100 * 0x1p-24;

struct Shape {
  int64_t rows, dim;
  int64_t shift = 0;  // elements by which every array starts off a 16-byte boundary
};
// Rows that fit registers in packs, whole and in part, of one warp and of several, more of them than blocks; and
// rows that do not: odd sizes, arrays off their boundary, very long ones.
const Shape kNormShapes[] = {{1, 1},      {3, 5},     {5, 7},     {3000, 64}, {17, 256},      {1200, 130}, {9, 520},
                             {600, 2048}, {70, 2050}, {50, 5120}, {5, 8192},  {600, 2048, 1}, {9, 64, 3},  {2, 13000}};

// An array of rows * dim elements behind `shift` others.
template <class T>
class Shifted {
 public:
  Shifted(const Shape& s) : shift_(s.shift), rows_(1, s.rows * s.dim + s.shift) {}
  Shifted(Rng& rng, const Shape& s) : shift_(s.shift), rows_(normal_on_device<T>(rng, 1, s.rows * s.dim + s.shift)) {}
  T* data() const { return rows_.data() + shift_; }
  std::vector<double> host() const { return tail(rows_.host().values()); }
  std::vector<double> pull() { return tail(rows_.pull().values()); }

 private:
  std::vector<double> tail(std::vector<double> all) const {
    all.erase(all.begin(), all.begin() + shift_);
    return all;
  }
  int64_t shift_;
  DeviceRows<T> rows_;
};

TYPED_TEST(RowCuda, AddRmsNormIsTheFormula) {
  RATTAN_NEEDS_GPU();
  using T = TypeParam;
  constexpr float eps = 1e-6f;
  uint64_t seed = 2000;
  for (const Shape& shape : kNormShapes) {
    for (bool with_branch : {true, false}) {
      const int64_t rows = shape.rows, dim = shape.dim;
      SCOPED_TRACE(::testing::Message() << "seed " << seed << ", " << rows << " x " << dim << " + " << shape.shift);
      Rng rng(seed++);
      Shifted<float> x(rng, shape), d_sum_in(rng, shape), sum(shape), d_sum(shape);
      Shifted<T> branch(rng, shape), d_y(rng, shape), y(shape), d_branch(shape);
      auto weight = normal_on_device<float>(rng, 1, dim);
      DeviceRows<float> rstd(1, rows), d_weight(1, dim);
      AddRmsNormForward<T> f{rows,
                             dim,
                             eps,
                             x.data(),
                             with_branch ? branch.data() : nullptr,
                             weight.data(),
                             with_branch ? sum.data() : nullptr,
                             y.data(),
                             rstd.data()};
      cuda::add_rms_norm_forward(f, nullptr);
      const auto expected = ref::add_rms_norm_forward(x.host(), with_branch ? branch.host() : std::vector<double>{},
                                                      weight.host().values(), eps);
      EXPECT_LE(relative_rms_error(y.pull(), expected.y), bound<T>);
      EXPECT_LE(relative_rms_error(rstd.pull().values(), expected.rstd), fp32_bound);
      if (with_branch) {
        EXPECT_LE(relative_rms_error(sum.pull(), expected.sum), fp32_bound);
      }
      AddRmsNormBackward<T> b;
      b.rows = rows, b.dim = dim, b.y = y.data(), b.weight = weight.data();
      b.rstd = rstd.data(), b.d_y = d_y.data(), b.d_sum_in = with_branch ? d_sum_in.data() : nullptr;
      b.d_sum = d_sum.data(), b.d_branch = with_branch ? d_branch.data() : nullptr, b.d_weight = d_weight.data();
      DeviceMemory scratch(cuda::add_rms_norm_backward_scratch_bytes(rows, dim));
      cuda::add_rms_norm_backward(b, scratch.data(), nullptr);
      const auto gradients =
          ref::add_rms_norm_backward(y.pull(), weight.host().values(), rstd.pull().values(), d_y.host(),
                                     with_branch ? d_sum_in.host() : std::vector<double>{});
      // A row of one element has no gradient but rounding errors through its own norm.
      if (dim > 1) {
        EXPECT_LE(relative_rms_error(d_sum.pull(), gradients.d_sum), 4 * fp32_bound);
      }
      EXPECT_LE(relative_rms_error(d_weight.pull().values(), gradients.d_weight), sum_bound);
      if (with_branch) {
        EXPECT_LE(relative_rms_error(d_branch.pull(), gradients.d_sum), std::max(bound<T>, 4 * fp32_bound));
      }
      const auto first = d_weight.host();
      cuda::add_rms_norm_backward(b, scratch.data(), nullptr);
      EXPECT_TRUE(d_weight.pull() == first) << "another run gave other bits";
      if (!with_branch) continue;
      const auto d_sum_apart = d_sum.pull(), sum_apart = sum.pull();
      b.d_sum = d_sum_in.data();
      cuda::add_rms_norm_backward(b, scratch.data(), nullptr);
      EXPECT_TRUE(d_sum_in.pull() == d_sum_apart) << "d_sum may be written over d_sum_in";
      f.sum = x.data();
      cuda::add_rms_norm_forward(f, nullptr);
      EXPECT_TRUE(x.pull() == sum_apart) << "the sum may be written over x";
    }
  }
}

TYPED_TEST(RowCuda, CrossEntropyIsTheFormula) {
  RATTAN_NEEDS_GPU();
  using T = TypeParam;
  uint64_t seed = 2100;
  for (auto [rows, vocabulary, padding] :
       {std::array<int64_t, 3>{1, 1, 0}, {9, 5, 2}, {70, 256, 0}, {12, 2048, 8}, {7, 5003, 1}, {3, 32000, 0}}) {
    for (bool weighted : {false, true}) {
      SCOPED_TRACE(::testing::Message() << "seed " << seed << ", " << rows << " x " << vocabulary);
      Rng rng(seed++);
      auto logits = normal_on_device<T>(rng, rows, vocabulary, padding, 3);
      std::vector<int64_t> target;
      std::vector<float> weight;
      for (int64_t r = 0; r < rows; ++r) {
        target.push_back(r % 5 == 3 ? -100 : static_cast<int64_t>(rng.below(static_cast<uint64_t>(vocabulary))));
        weight.push_back(static_cast<float>(2 * rng.uniform()));
      }
      const auto expected = ref::cross_entropy(logits.host().values(), target,
                                               weighted ? to_doubles(weight) : std::vector<double>{}, vocabulary);
      DeviceVector<int64_t> target_d(target);
      DeviceVector<float> weight_d(weight);
      DeviceRows<float> loss(1, rows);
      CrossEntropy<T> a{rows,  vocabulary, logits.ref(), target_d.data(), weighted ? weight_d.data() : nullptr,
                        false, loss.data()};
      const Rows<T> before = logits.host();
      cuda::cross_entropy(a, nullptr);
      EXPECT_TRUE(logits.pull() == before) << "without `gradient` the logits are only read";
      EXPECT_LE(relative_rms_error(loss.pull().values(), expected.loss), fp32_bound);
      a.gradient = true;
      cuda::cross_entropy(a, nullptr);
      EXPECT_LE(relative_rms_error(loss.pull().values(), expected.loss), fp32_bound);
      EXPECT_LE(relative_rms_error(logits.pull().values(), expected.gradient), bound<T>);
      EXPECT_TRUE(logits.host().padding_untouched());
    }
  }
}

TYPED_TEST(RowCuda, ForbiddenLogitsAreFineAndNaNReachesTheLoss) {
  RATTAN_NEEDS_GPU();
  using T = TypeParam;
  constexpr int64_t vocabulary = 5000;
  for (bool broken : {false, true}) {
    Rows<T> host(1, vocabulary);
    for (int64_t j = 0; j < vocabulary; ++j) host.at(0, j) = from_double<T>(j < 4500 ? -INFINITY : 8192);
    if (broken) host.at(0, 17) = from_double<T>(NAN);
    DeviceRows<T> logits(host, 1);
    DeviceVector<int64_t> target(std::vector<int64_t>{4600});
    DeviceRows<float> loss(1, 1);
    cuda::cross_entropy(CrossEntropy<T>{1, vocabulary, logits.ref(), target.data(), nullptr, true, loss.data()},
                        nullptr);
    const double value = loss.pull().values()[0];
    if (broken) {
      EXPECT_TRUE(std::isnan(value));
    } else {
      EXPECT_NEAR(value, std::log(500.0), 1e-6);
      EXPECT_EQ(to_double(logits.pull().at(0, 3)), 0);
    }
  }
}

TEST(RowCudaLarge, OffsetsBeyond31Bits) {
  RATTAN_NEEDS_GPU();
  constexpr int64_t kRows = 256, kDim = 2048, kTimes = 4097, kBlock = kRows * kDim;
  if (memory_is_short(kBlock * kTimes * 24)) GTEST_SKIP() << "not enough device memory";
  Rng rng(2200);
  DeviceVector<float> weight(random_floats(rng, kDim));
  DeviceRows<float> rstd(1, kRows * kTimes), d_weight(1, kDim);
  {
    Repeated<float> x(rng, kBlock, kTimes), sum(kBlock, kTimes);
    Repeated<bf16> branch(rng, kBlock, kTimes), y(kBlock, kTimes);
    cuda::add_rms_norm_forward(AddRmsNormForward<bf16>{kRows * kTimes, kDim, 1e-6f, x.data(), branch.data(),
                                                       weight.data(), sum.data(), y.data(), rstd.data()},
                               nullptr);
    y.expect_last_is_first("y");
    sum.expect_last_is_first("sum");
    DeviceMemory scratch(cuda::add_rms_norm_backward_scratch_bytes(kRows * kTimes, kDim));
    Repeated<bf16> d_branch(kBlock, kTimes);
    cuda::add_rms_norm_backward(
        AddRmsNormBackward<bf16>{kRows * kTimes, kDim, y.data(), weight.data(), rstd.data(), branch.data(), x.data(),
                                 x.data(), d_branch.data(), d_weight.data()},
        scratch.data(), nullptr);
    d_branch.expect_last_is_first("d_branch");
    x.expect_last_is_first("d_sum, in place of d_sum_in");
  }
  Repeated<bf16> logits(rng, kBlock, kTimes);
  DeviceRows<float> loss(1, kRows * kTimes);
  DeviceVector<int64_t> target(std::vector<int64_t>(static_cast<std::size_t>(kRows * kTimes), 7));
  cuda::cross_entropy(
      CrossEntropy<bf16>{kRows * kTimes, kDim, {logits.data(), kDim}, target.data(), nullptr, true, loss.data()},
      nullptr);
  logits.expect_last_is_first("cross-entropy");
}

TYPED_TEST(RowCuda, SizesMayBeZero) {
  RATTAN_NEEDS_GPU();
  using T = TypeParam;
  DeviceRows<float> d_weight(1, 4);
  cuda::add_rms_norm_forward(AddRmsNormForward<T>{}, nullptr);
  AddRmsNormBackward<T> b;
  b.dim = 4, b.d_weight = d_weight.data();
  cuda::add_rms_norm_backward(b, nullptr, nullptr);
  for (double x : d_weight.pull().values()) EXPECT_EQ(x, 0) << "a sum over no rows is 0";
  cuda::cross_entropy(CrossEntropy<T>{}, nullptr);
  expect_success(cudaDeviceSynchronize(), "nothing to do");
}

}  // namespace rattan::kernels::row_cuda_test_file
