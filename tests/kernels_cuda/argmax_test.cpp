// The choice of the most probable token on a GPU: the first of the largest, whatever else a row holds.
#include "rattan/kernels/argmax.h"

#include <limits>

#include "tests/kernels_cuda/cuda_test_util.h"

namespace rattan::kernels::argmax_cuda_test_file {

template <class T>
class ArgmaxCuda : public ::testing::Test {};
using Types = ::testing::Types<float, bf16>;
TYPED_TEST_SUITE(ArgmaxCuda, Types);

// 0 for a row without a number.
template <class T>
int64_t first_of_the_largest(const Rows<T>& x, int64_t row, int64_t dim) {
  int64_t best = -1;
  for (int64_t i = 0; i < dim; ++i) {
    const double value = to_double(x.at(row, i));
    if (!std::isnan(value) && (best < 0 || value > to_double(x.at(row, best)))) best = i;
  }
  return best < 0 ? 0 : best;
}

TYPED_TEST(ArgmaxCuda, IsTheFirstOfTheLargest) {
  RATTAN_NEEDS_GPU();
  using T = TypeParam;
  uint64_t seed = 900;
  for (auto [rows, dim, padding] : std::vector<std::tuple<int64_t, int64_t, int64_t>>{
           {1, 1, 0}, {3, 32000, 0}, {5, 1000, 3}, {2, 40007, 1}, {300, 512, 8}}) {
    SCOPED_TRACE(::testing::Message() << "seed " << seed << ": " << rows << " x " << dim);
    Rng rng(seed++);
    Rows<T> host = Rows<T>::normal(rng, rows, dim, padding);
    const double nan = std::numeric_limits<double>::quiet_NaN(), infinity = std::numeric_limits<double>::infinity();
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t at = r * 7919 % dim;
      if (r % 4 == 1) host.at(r, at) = host.at(r, dim - 1) = from_double<T>(9);  // twice the largest
      if (r % 4 == 2) host.at(r, at) = from_double<T>(nan);
      if (r % 4 == 3)
        for (int64_t i = 0; i < dim; ++i) host.at(r, i) = from_double<T>(i % 2 ? nan : -infinity);
    }
    const DeviceRows<T> x(std::move(host), rows);
    DeviceMemory index(rows * 8);
    Argmax<T> a;
    a.rows = rows, a.dim = dim, a.x = x.view(), a.index = static_cast<int64_t*>(index.data());
    cuda::argmax(a, nullptr);
    std::vector<int64_t> got(static_cast<std::size_t>(rows));
    ASSERT_EQ(cudaMemcpy(got.data(), a.index, got.size() * 8, cudaMemcpyDeviceToHost), cudaSuccess);
    for (int64_t r = 0; r < rows; ++r) {
      EXPECT_EQ(got[static_cast<std::size_t>(r)], first_of_the_largest(x.host(), r, dim)) << "row " << r;
    }
  }
}

}  // namespace rattan::kernels::argmax_cuda_test_file
