// ops::linear and ops::product choose between kernels; whichever it is, they are what their formulas say.
#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "rattan/ops/ops.h"

namespace rattan::linear_test_file {

// Large enough for the fp32 product of our own, where it is used.
constexpr int64_t rows = 150, in = 130, out = 140;

// Sums of 150 terms at most: a hundred roundings to fp32 of the largest value are far above what is met.
void expect_near(const at::Tensor& got, const at::Tensor& expected, const char* what) {
  const double size = expected.abs().max().item<double>();
  EXPECT_LE((got.to(at::kDouble) - expected).abs().max().item<double>(), 100 * 6e-8 * size) << what;
}

TEST(Linear, ValueAndGradientsMatchFloat64) {
  at::manual_seed(3);
  at::Tensor x = at::randn({3, rows / 3, in}).set_requires_grad(true);
  at::Tensor w = at::randn({out, in}).set_requires_grad(true);
  const at::Tensor d_y = at::randn({3, rows / 3, out});
  const at::Tensor y = ops::linear(x, w);
  torch::autograd::backward({y}, {d_y});
  at::Tensor x2 = x.detach().to(at::kDouble).set_requires_grad(true);
  at::Tensor w2 = w.detach().to(at::kDouble).set_requires_grad(true);
  const at::Tensor y2 = at::linear(x2, w2);
  torch::autograd::backward({y2}, {d_y.to(at::kDouble)});
  EXPECT_EQ(y.sizes(), y2.sizes());
  expect_near(y.detach(), y2.detach(), "y");
  expect_near(x.grad(), x2.grad(), "dx");
  expect_near(w.grad(), w2.grad(), "dw");
}

// Activation recomputation compares bits.
TEST(Linear, TheSameWithAndWithoutAGradientGraph) {
  at::manual_seed(4);
  const at::Tensor x = at::randn({rows, in});
  at::Tensor w = at::randn({out, in}).set_requires_grad(true);
  const at::Tensor with = ops::linear(x, w).detach();
  at::NoGradGuard no_grad;
  EXPECT_TRUE(ops::linear(x, w).equal(with));
}

TEST(Linear, TheGradientIsDifferentiable) {
  at::manual_seed(5);
  at::Tensor x = at::randn({rows, in}).set_requires_grad(true);
  at::Tensor w = at::randn({out, in}).set_requires_grad(true);
  const at::Tensor d_y = at::randn({rows, out});
  const at::Tensor d_x = torch::autograd::grad({ops::linear(x, w)}, {x}, {d_y}, true, true)[0];
  // sum of dx^2 with dx = dy w: its gradient for w is 2 dy^T dx.
  const at::Tensor d_w = torch::autograd::grad({(d_x * d_x).sum()}, {w})[0];
  const at::Tensor exact = d_y.to(at::kDouble);
  expect_near(d_w, 2 * exact.t().matmul(exact.matmul(w.detach().to(at::kDouble))), "second derivative");
}

TEST(Linear, ProductsTakeAnyStrides) {
  at::manual_seed(6);
  const at::Tensor a = at::randn({in, 2 * rows}).t().slice(0, 0, 2 * rows, 2),
                   b = at::randn({in, out + 7}).slice(1, 3, out + 3);
  const at::Tensor expected = a.to(at::kDouble).matmul(b.to(at::kDouble));
  expect_near(ops::product(a, b), expected, "product");
  at::Tensor c = at::empty({rows, 2 * out}).slice(1, 0, out);
  ops::product_into(c, a, b);
  expect_near(c, expected, "product_into");
}

}  // namespace rattan::linear_test_file
