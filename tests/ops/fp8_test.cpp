// Products in fp8: values and gradients are what their formulas say of factors rounded to e4m3, in the emulation on
// any device and on the tensor cores of a GPU that has them.
#include "rattan/ops/fp8.h"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <optional>

#include "rattan/base/e4m3.h"
#include "rattan/base/error.h"

namespace rattan::fp8_test_file {

using ops::Fp8;

struct Where {
  at::Device device;
  Fp8 fp8;
};

// Not there: why.
std::optional<std::string> missing(const Where& where) {
  if (where.device.is_cuda() && !at::hasCUDA()) return "no GPU";
  try {
    ops::require_fp8(where.fp8, where.device);
  } catch (const InputError& error) {
    return error.what();
  }
  return std::nullopt;
}

class Fp8Products : public ::testing::TestWithParam<Where> {
 protected:
  void SetUp() override {
    if (const auto why = missing(GetParam())) GTEST_SKIP() << *why;
    at::manual_seed(17);
  }
  static at::Tensor normal(const std::vector<int64_t>& shape, double size = 1) {
    return (at::randn(shape) * size).to(at::kBFloat16).to(GetParam().device);
  }
};

at::Tensor back(const ops::Fp8Rows& rows) {
  return rows.values.to(at::kFloat).to(at::kDouble) * rows.scale.to(at::kDouble).unsqueeze(1);
}
at::Tensor rounded(const at::Tensor& x) { return back(ops::quantize_rows(x)); }

// One rounding to bf16; beside it the sums: `terms` roundings to fp32, far below in the emulation, or those of tensor
// cores, which line terms up behind the largest and keep about 13 bits: 2^-10 of the size of the largest terms each, in
// random directions. A wrong scale or a wrong row is off by the size of the sum.
void expect_near(const at::Tensor& got, const at::Tensor& expected, Fp8 fp8, int64_t terms, const char* what) {
  ASSERT_EQ(got.sizes(), expected.sizes()) << what;
  const double rms = expected.pow(2).mean().sqrt().item<double>();
  const at::Tensor error = (got.to(at::kDouble) - expected).abs();
  const double sum = fp8 == Fp8::on ? 0x1p-10 * std::sqrt(static_cast<double>(terms)) : 1e-6;
  const at::Tensor allowed = 0x1p-8 * expected.abs() + sum * rms;
  EXPECT_TRUE((error <= allowed).all().item<bool>()) << what << ": " << (error - allowed).max().item<double>();
}

TEST(Fp8Rows, CodesAreThoseOfTorch) {
  const at::Tensor codes = at::arange(256, at::kByte);
  const at::Tensor values = codes.view(at::kFloat8_e4m3fn).to(at::kFloat);
  for (int64_t i = 0; i < 256; ++i) {
    const float own = to_float(e4m3{static_cast<uint8_t>(i)}), theirs = values[i].item<float>();
    EXPECT_TRUE(own == theirs || (std::isnan(own) && std::isnan(theirs))) << i;
  }
  at::manual_seed(3);
  const at::Tensor x = (at::randn({20000}) * 60).clamp(-448, 448);
  const at::Tensor rounded = x.to(at::kFloat8_e4m3fn).view(at::kByte);
  for (int64_t i = 0; i < x.numel(); ++i)
    ASSERT_EQ(to_e4m3(x.data_ptr<float>()[i]).bits, rounded.data_ptr<uint8_t>()[i]) << x.data_ptr<float>()[i];
}

TEST_P(Fp8Products, RowsComeBackAtAnyStride) {
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    for (int64_t dim : {1, 16, 48, 130, 2048}) {
      const at::Tensor x = normal({19, dim}).to(type);
      const ops::Fp8Rows q = ops::quantize_rows(x);
      EXPECT_EQ(q.values.scalar_type(), at::kFloat8_e4m3fn);
      const at::Tensor exact = x.to(at::kDouble), error = (back(q) - exact).abs();
      const at::Tensor allowed = (exact.abs() * 0x1p-4).maximum(q.scale.to(at::kDouble).unsqueeze(1) * 0x1p-10);
      EXPECT_TRUE((error <= 1.0001 * allowed).all().item<bool>()) << dim;
      const at::Tensor slice = at::constant_pad_nd(x, {3, 2}, std::nan("")).narrow(1, 3, dim);
      const at::Tensor turned = x.t().contiguous().t();
      for (const at::Tensor& other : {slice, turned}) {
        const ops::Fp8Rows r = ops::quantize_rows(other);
        EXPECT_TRUE(at::equal(r.values.view(at::kByte), q.values.view(at::kByte))) << dim;
        EXPECT_TRUE(at::equal(r.scale, q.scale)) << dim;
      }
    }
  }
}

TEST_P(Fp8Products, ValueAndGradientsAreTheFormulas) {
  const Fp8 fp8 = GetParam().fp8;
  for (const auto& [rows, in, out] : {std::array<int64_t, 3>{6, 16, 32}, {111, 64, 48}, {300, 512, 208}}) {
    SCOPED_TRACE(::testing::Message() << rows << " x " << in << " -> " << out);
    at::Tensor x = normal({3, rows / 3, in}).set_requires_grad(true);
    at::Tensor w = normal({out, in}, 0.05).set_requires_grad(true);
    const at::Tensor d_y = normal({3, rows / 3, out}, 1e-4);
    const at::Tensor y = ops::fp8_linear(x, w, fp8);
    EXPECT_EQ(y.scalar_type(), at::kBFloat16);
    torch::autograd::backward({y}, {d_y});
    const at::Tensor flat = x.detach().view({rows, in}), d_flat = d_y.view({rows, out}), weight = w.detach();
    expect_near(y.detach().view({rows, out}), rounded(flat).matmul(rounded(weight).t()), fp8, in, "y");
    expect_near(x.grad().view({rows, in}), rounded(d_flat).matmul(rounded(weight.t().contiguous()).t()), fp8, out,
                "dx");
    // As in bf16: nothing of it is rounded to e4m3.
    const at::Tensor d_w = d_flat.to(at::kDouble).t().matmul(flat.to(at::kDouble));
    expect_near(w.grad(), d_w, Fp8::emulated, rows, "dw");
    EXPECT_GT((y.detach().view({rows, out}).to(at::kDouble) - flat.to(at::kDouble).matmul(weight.to(at::kDouble).t()))
                  .abs()
                  .max()
                  .item<double>(),
              0.01)
        << "fp8 leaves its traces";
  }
}

// Activation recomputation compares bits; and rows of a weight rounded beforehand are those rounded on the way.
TEST_P(Fp8Products, TheSameWithAndWithoutAGradientGraph) {
  const Fp8 fp8 = GetParam().fp8;
  const at::Tensor x = normal({50, 64});
  at::Tensor w = normal({96, 64}).set_requires_grad(true);
  const at::Tensor with = ops::fp8_linear(x, w, fp8).detach();
  at::NoGradGuard no_grad;
  EXPECT_TRUE(at::equal(ops::fp8_linear(x, w, fp8), with));
  EXPECT_TRUE(at::equal(ops::fp8_linear(x, w, fp8, ops::quantize_rows(w)), with));
}

TEST_P(Fp8Products, RowsOfZerosNoRowsAndOne) {
  const Fp8 fp8 = GetParam().fp8;
  const at::Tensor w = normal({32, 16});
  at::Tensor x = normal({5, 16});
  x.select(0, 2).zero_();
  const at::Tensor y = ops::fp8_linear(x, w, fp8);
  EXPECT_EQ(y.select(0, 2).abs().max().item<float>(), 0);
  EXPECT_TRUE(y.isfinite().all().item<bool>());
  EXPECT_EQ(ops::fp8_linear(x.narrow(0, 0, 0), w, fp8).sizes(), (std::vector<int64_t>{0, 32}));
  // One row alone, as in decoding; another kernel may sum it in another order.
  const at::Tensor alone = ops::fp8_linear(x.narrow(0, 0, 1), w, fp8), beside = y.narrow(0, 0, 1);
  expect_near(alone, beside.to(at::kDouble), fp8, 2 * 16, "one row");
}

TEST_P(Fp8Products, WhatIsNotFiniteShows) {
  const Fp8 fp8 = GetParam().fp8;
  const at::Tensor w = normal({32, 16});
  at::Tensor x = normal({3, 16});
  x.select(0, 0).select(0, 3).fill_(std::nan("")), x.select(0, 1).select(0, 3).fill_(INFINITY);
  const at::Tensor y = ops::fp8_linear(x, w, fp8);
  EXPECT_TRUE(y.narrow(0, 0, 2).isnan().all().item<bool>());
  EXPECT_TRUE(y.select(0, 2).isfinite().all().item<bool>()) << "other rows are their own";
}

TEST_P(Fp8Products, Refusals) {
  const Fp8 fp8 = GetParam().fp8;
  EXPECT_THROW(ops::fp8_linear(normal({4, 24}), normal({32, 24}), fp8), InputError) << "24 is no multiple of 16";
  EXPECT_THROW(ops::fp8_linear(normal({4, 16}), normal({24, 16}), fp8), InputError);
  EXPECT_THROW(ops::fp8_linear(normal({4, 16}), normal({32, 48}), fp8), InputError) << "other widths";
  EXPECT_THROW(ops::fp8_linear(normal({4, 16}).to(at::kFloat), normal({32, 16}).to(at::kFloat), fp8), InputError);
  EXPECT_THROW(ops::quantize_rows(normal({4, 16}).to(at::kDouble)), InputError);
  EXPECT_THROW(ops::quantize_rows(normal({2, 4, 16})), InputError);
  at::Tensor x = normal({4, 16}).set_requires_grad(true);
  const at::Tensor y = ops::fp8_linear(x, normal({32, 16}), fp8);
  EXPECT_THROW(torch::autograd::grad({y.sum()}, {x}, {}, true, true), InputError) << "a graph of the gradient";
}

INSTANTIATE_TEST_SUITE_P(Devices, Fp8Products,
                         ::testing::Values(Where{at::Device(at::kCPU), Fp8::emulated},
                                           Where{at::Device(at::kCUDA, 0), Fp8::emulated},
                                           Where{at::Device(at::kCUDA, 0), Fp8::on}),
                         [](const auto& info) {
                           return std::string(info.param.device.is_cuda() ? "cuda" : "cpu") +
                                  (info.param.fp8 == Fp8::on ? "" : "_emulated");
                         });

TEST(Fp8, AProcessorCannotDoIt) {
  EXPECT_NO_THROW(ops::require_fp8(Fp8::off, at::kCPU));
  EXPECT_NO_THROW(ops::require_fp8(Fp8::emulated, at::kCPU));
  try {
    ops::fp8_linear(at::zeros({4, 16}, at::kBFloat16), at::zeros({16, 16}, at::kBFloat16), Fp8::on);
    ADD_FAILURE() << "was taken";
  } catch (const InputError& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("compute capability 9.0"));
    EXPECT_THAT(error.what(), ::testing::HasSubstr("fp8_emulated"));
  }
}

}  // namespace rattan::fp8_test_file
