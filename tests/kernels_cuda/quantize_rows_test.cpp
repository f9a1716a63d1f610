// Rounding rows to e4m3 on the GPU gives the bits of the CPU's kernel, whose formula tests/kernels/ checks; here it is
// computed with the same few fp32 operations.
#include "rattan/kernels/quantize_rows.h"

#include "tests/kernels_cuda/cuda_test_util.h"

namespace rattan::kernels::quantize_rows_cuda_test_file {

template <class T>
class QuantizeRowsCuda : public ::testing::Test {};
using Types = ::testing::Types<float, bf16>;
TYPED_TEST_SUITE(QuantizeRowsCuda, Types);

struct Quantized {
  std::vector<uint8_t> y;
  std::vector<float> scale;
};

template <class T>
Quantized expected_of(const Rows<T>& x, int64_t rows, int64_t dim) {
  Quantized out;
  for (int64_t r = 0; r < rows; ++r) {
    float most = quantize_rows_least;
    for (int64_t i = 0; i < dim; ++i) most = std::fmax(most, std::abs(to_float(x.at(r, i))));  // leaves out NaN
    const float inverse = e4m3_most / most;
    out.scale.push_back(most / e4m3_most);
    for (int64_t i = 0; i < dim; ++i) {
      const float scaled = to_float(x.at(r, i)) * inverse;
      out.y.push_back(to_e4m3(scaled).bits);
    }
  }
  return out;
}

struct Shape {
  int64_t rows, dim;
  int64_t padding = 0;  // elements after each row, of x and of y
  int64_t shift = 0;    // elements by which x starts off a 16-byte boundary
};
// A warp a row, whole blocks and the last with rows left over; several warps; two pieces a thread; and what has no
// whole pieces: odd sizes, odd strides, arrays off their boundary, very long rows.
const Shape kShapes[] = {{1, 16},         {3, 16},       {5, 512},       {4001, 64},    {7, 528},
                         {600, 2048},     {33, 6656},    {9, 8192},      {5, 8208},     {3, 16384},
                         {2, 16400},      {2, 40000},    {1, 1},         {9, 7},        {70, 2050},
                         {600, 2048, 32}, {60, 2048, 3}, {9, 256, 0, 1}, {1200, 48, 16}};

template <class T>
void expect_same(const Shape& shape, Rows<T> values) {
  DeviceRows<T> x(std::move(values), shape.rows + 1);
  const int64_t stride = shape.dim + shape.padding;
  DeviceVector<uint8_t> y(std::vector<uint8_t>(static_cast<std::size_t>(shape.rows * stride), 0x55));
  DeviceVector<float> scale(std::vector<float>(static_cast<std::size_t>(shape.rows), NAN));
  // Read from `shift` elements on: rows of that view are the values shifted likewise.
  QuantizeRows<T> a;
  a.rows = shape.rows, a.dim = shape.dim;
  a.x = {x.data() + shape.shift, x.host().stride()};
  a.y = {reinterpret_cast<e4m3*>(y.data()), stride}, a.scale = scale.data();
  cuda::quantize_rows(a, nullptr);
  Rows<T> seen(shape.rows, shape.dim);
  const T* host = x.host().data();
  for (int64_t r = 0; r < shape.rows; ++r)
    for (int64_t i = 0; i < shape.dim; ++i) seen.at(r, i) = host[r * x.host().stride() + shape.shift + i];
  const Quantized expected = expected_of(seen, shape.rows, shape.dim);
  const std::vector<uint8_t> got = y.pull();
  EXPECT_TRUE(same_bits(scale.pull(), expected.scale));
  int64_t wrong = 0;
  for (int64_t r = 0; r < shape.rows; ++r)
    for (int64_t i = 0; i < stride; ++i) {
      const uint8_t byte = got[static_cast<std::size_t>(r * stride + i)];
      const bool inside = i < shape.dim;
      wrong += byte != (inside ? expected.y[static_cast<std::size_t>(r * shape.dim + i)] : 0x55);
    }
  EXPECT_EQ(wrong, 0);
  cuda::quantize_rows(a, nullptr);
  EXPECT_TRUE(same_bits(y.pull(), got)) << "another run gave other bits";
}

// NaN lies behind the rows and must not be read.
TYPED_TEST(QuantizeRowsCuda, GivesTheBitsOfTheFormula) {
  RATTAN_NEEDS_GPU();
  uint64_t seed = 2300;
  for (const Shape& shape : kShapes) {
    for (double size : {1.0, 1e-7, 1e20}) {
      SCOPED_TRACE(::testing::Message() << "seed " << seed << ", " << shape.rows << " x " << shape.dim << " + "
                                        << shape.padding << ", shift " << shape.shift << ", size " << size);
      Rng rng(seed++);
      expect_same<TypeParam>(
          shape, Rows<TypeParam>::normal(rng, shape.rows + 1, shape.dim + shape.shift, shape.padding, size));
    }
  }
}

TYPED_TEST(QuantizeRowsCuda, ZerosTinyRowsAndWhatIsNotFinite) {
  RATTAN_NEEDS_GPU();
  for (int64_t dim : {40, 48, 2048}) {
    SCOPED_TRACE(dim);
    Rows<TypeParam> x(6, dim);
    for (int64_t i = 0; i < dim; ++i) {
      x.at(0, i) = from_double<TypeParam>(i % 2 == 0 ? 0.0 : -0.0);
      x.at(1, i) = from_double<TypeParam>(1e-38);
      for (int64_t r = 2; r < 6; ++r) x.at(r, i) = from_double<TypeParam>(static_cast<double>(i % 5) - 2);
    }
    x.at(2, 7) = from_double<TypeParam>(NAN), x.at(3, 9) = from_double<TypeParam>(-INFINITY);
    expect_same<TypeParam>({5, dim}, std::move(x));
  }
}

TEST(QuantizeRowsCudaLarge, BeyondTwoToThe31Elements) {
  RATTAN_NEEDS_GPU();
  constexpr int64_t rows = 1024, dim = 2048, times = (int64_t{1} << 31) / (rows * dim) + 1;
  if (memory_is_short(4 * rows * dim * times)) GTEST_SKIP() << "too little memory";
  Rng rng(2390);
  Repeated<bf16> x(rng, rows * dim, times);
  DeviceMemory y(rows * dim * times);
  DeviceVector<float> scale(std::vector<float>(rows * times, NAN));
  QuantizeRows<bf16> a;
  a.rows = rows * times, a.dim = dim, a.x = {x.data(), dim};
  a.y = {static_cast<e4m3*>(y.data()), dim}, a.scale = scale.data();
  cuda::quantize_rows(a, nullptr);
  std::vector<uint8_t> first(rows * dim), last(rows * dim);
  const auto* bytes = static_cast<const uint8_t*>(y.data());
  expect_success(cudaMemcpy(first.data(), bytes, first.size(), cudaMemcpyDeviceToHost), "cudaMemcpy");
  expect_success(cudaMemcpy(last.data(), bytes + rows * dim * (times - 1), last.size(), cudaMemcpyDeviceToHost),
                 "cudaMemcpy");
  EXPECT_TRUE(same_bits(first, last));
  EXPECT_TRUE(std::any_of(first.begin(), first.end(), [](uint8_t code) { return (code & 0x7f) == 0x7e; }));
  const auto scales = scale.pull();
  for (int64_t r = 0; r < rows; ++r) ASSERT_EQ(scales[r], scales[rows * (times - 1) + r]);
}

}  // namespace rattan::kernels::quantize_rows_cuda_test_file
