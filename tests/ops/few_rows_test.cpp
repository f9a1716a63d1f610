// Products of few rows in decoding, on a GPU.
#include "rattan/ops/few_rows.h"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include "rattan/ops/ops.h"

namespace rattan::few_rows_test_file {

const at::TensorOptions on_gpu = at::TensorOptions().device(at::kCUDA, 0).dtype(at::kFloat);

// fp32 sums of bf16 products, rounded once: two units of bf16 are enough.
void expect_near(const at::Tensor& got, const at::Tensor& expected) {
  const double size = expected.abs().max().item<double>();
  EXPECT_LE((got.to(at::kDouble) - expected).abs().max().item<double>(), 0x1p-8 * size);
}

TEST(FewRows, ProductsOnAGpuAreTheFormulaAndAddToTheStream) {
  if (!at::Context::hasCUDA()) GTEST_SKIP() << "no GPU";
  at::manual_seed(5);
  at::NoGradGuard no_grad;
  const at::Tensor x = at::randn({1, 5, 256}, on_gpu).to(at::kBFloat16),
                   w = at::randn({96, 256}, on_gpu).to(at::kBFloat16);
  const at::Tensor expected = at::linear(x.to(at::kDouble), w.to(at::kDouble));
  EXPECT_FALSE(ops::few_rows_linear(x, w)) << "nobody asked for it";
  ops::FewRowsScope few_rows;
  const auto y = ops::few_rows_linear(x, w);
  ASSERT_TRUE(y);
  EXPECT_EQ(y->sizes(), expected.sizes());
  expect_near(*y, expected);
  EXPECT_TRUE(ops::linear(x, w).equal(*y));
  const at::Tensor wide = ops::wide_linear(x, w);
  EXPECT_EQ(wide.scalar_type(), at::kFloat);
  EXPECT_TRUE(wide.to(at::kBFloat16).equal(*y)) << "the same sums, rounded later";
  const at::Tensor sum = at::randn({1, 5, 96}, on_gpu), before = sum.clone();
  const auto added = ops::add_linear_(sum, x, {w, {}});
  ASSERT_TRUE(added);
  EXPECT_TRUE(added->sum.is_same(sum));
  expect_near(sum, before.to(at::kDouble) + expected);
}

TEST(FewRows, WhatTheKernelDoesNotTakeIsMultipliedAsEver) {
  if (!at::Context::hasCUDA()) GTEST_SKIP() << "no GPU";
  at::NoGradGuard no_grad;
  ops::FewRowsScope few_rows;
  auto bf16 = [](at::IntArrayRef sizes) { return at::randn(sizes, on_gpu).to(at::kBFloat16); };
  EXPECT_FALSE(ops::few_rows_linear(bf16({17, 256}), bf16({8, 256}))) << "too many rows";
  EXPECT_FALSE(ops::few_rows_linear(bf16({2, 250}), bf16({8, 250}))) << "rows that are not of 16-byte units";
  EXPECT_FALSE(ops::few_rows_linear(at::randn({2, 256}, on_gpu), at::randn({8, 256}, on_gpu))) << "fp32";
  EXPECT_EQ(ops::linear(bf16({2, 250}), bf16({8, 250})).sizes(), at::IntArrayRef({2, 8}));
  EXPECT_EQ(ops::wide_linear(bf16({2, 250}), bf16({8, 250})).scalar_type(), at::kFloat);
}

}  // namespace rattan::few_rows_test_file
