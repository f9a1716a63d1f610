// Operators read slices and transposed tensors where they lie: the result is bit for bit that of a dense copy, and
// gradients arrive in the slice's place.
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/equal.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <functional>

#include "tests/ops/ops_inputs.h"

namespace rattan::ops_test::strided_test {

using Run = std::function<at::Tensor(const at::Tensor&)>;

at::Tensor as_is(const at::Tensor& t) { return t; }
// The same values as a slice of wider rows, NaN beside them.
at::Tensor slice(const at::Tensor& t) { return at::constant_pad_nd(t, {2, 1}, std::nan("")).narrow(-1, 2, t.size(-1)); }
// The same values with a last dimension that is not contiguous.
at::Tensor transposed(const at::Tensor& t) { return t.transpose(0, -1).contiguous().transpose(0, -1); }

// The output, and the gradient of a function of it with respect to `values`.
std::pair<at::Tensor, at::Tensor> run_laid_out(const at::Tensor& values, const Run& lay_out, const Run& run) {
  const at::Tensor leaf = values.clone().set_requires_grad(true);
  const at::Tensor y = run(lay_out(leaf));
  torch::autograd::backward({y.to(at::kFloat).sin().sum()}, {});
  return {y.detach(), leaf.grad()};
}

void expect_same(const at::Tensor& values, const Run& run) {
  const auto [y, d_values] = run_laid_out(values, as_is, run);
  const std::pair<const char*, Run> layouts[] = {{"slice", slice}, {"transposed", transposed}};
  for (const auto& [name, lay_out] : layouts) {
    SCOPED_TRACE(name);
    ASSERT_FALSE(lay_out(values).is_contiguous());
    const auto [other_y, other_d] = run_laid_out(values, lay_out, run);
    EXPECT_TRUE(at::equal(other_y, y));
    EXPECT_TRUE(at::equal(other_d, d_values));
  }
}

class Strided : public testing::TestWithParam<at::ScalarType> {
 protected:
  void SetUp() override { at::manual_seed(11); }
  at::Tensor typed(const at::Tensor& t) const { return t.to(GetParam()); }
};

TEST_P(Strided, Rat) {
  RatInputs i;
  expect_same(typed(i.proj), [&](const at::Tensor& proj) {
    i.proj = proj;
    return i.run().out;
  });
}

TEST_P(Strided, Attention) {
  AttentionInputs i;
  i.q = typed(i.q), i.k = typed(i.k), i.v = typed(i.v);
  for (at::Tensor AttentionInputs::*field : {&AttentionInputs::q, &AttentionInputs::k, &AttentionInputs::v})
    expect_same(i.*field, [&](const at::Tensor& t) {
      AttentionInputs other = i;
      other.*field = t;
      return other.run();
    });
}

TEST_P(Strided, GatedScan) {
  ScanInputs i;
  i.x = typed(i.x), i.gate = typed(i.gate);
  for (at::Tensor ScanInputs::*field : {&ScanInputs::x, &ScanInputs::gate})
    expect_same(i.*field, [&](const at::Tensor& t) {
      ScanInputs other = i;
      other.*field = t;
      return other.run();
    });
}

TEST_P(Strided, Rope) {
  RopeInputs i;
  expect_same(typed(i.x), [&](const at::Tensor& x) { return ops::rope(x, i.position, i.cos, i.sin); });
}

TEST_P(Strided, Activations) {
  const at::Tensor x = typed(at::randn({5, 8})), y = typed(at::randn({5, 8}));
  expect_same(x, [&](const at::Tensor& t) { return ops::gelu(t); });
  expect_same(x, [&](const at::Tensor& t) { return ops::swiglu(t, y); });
  expect_same(x, [&](const at::Tensor& t) { return ops::sigmoid_mul(y, t); });
}

TEST_P(Strided, AddRmsNorm) {
  const at::Tensor branch = typed(at::randn({5, 8})), x = at::randn({5, 8}), weight = at::randn({8});
  expect_same(branch,
              [&](const at::Tensor& t) { return std::get<1>(ops::add_rms_norm(x, t, weight, 1e-6, GetParam())); });
}

INSTANTIATE_TEST_SUITE_P(Types, Strided, testing::Values(at::kFloat, at::kBFloat16),
                         [](const auto& info) { return c10::toString(info.param); });

}  // namespace rattan::ops_test::strided_test
