// Small parts that the probes share: random tensors, and the least a mixer must say.
#pragma once
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cstring>

#include "rattan/base/error.h"
#include "rattan/nn/block.h"

namespace rattan::probes {

// Standard normal from a fixed seed; the same numbers in every type.
inline at::Tensor random(at::IntArrayRef shape, uint64_t seed, at::ScalarType dtype = at::kFloat) {
  at::Tensor x = at::empty(shape, at::kFloat);
  Rng rng(seed);
  for (int64_t i = 0; i < x.numel(); ++i) x.data_ptr<float>()[i] = static_cast<float>(rng.normal());
  return x.to(dtype);
}

inline bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.detach().contiguous(), y = b.detach().contiguous();
  return x.sizes() == y.sizes() && x.scalar_type() == y.scalar_type() &&
         std::memcmp(x.data_ptr(), y.data_ptr(), x.nbytes()) == 0;
}

// max |a - b|, in float64.
inline double distance(const at::Tensor& a, const at::Tensor& b) {
  return (a.detach().to(at::kDouble) - b.detach().to(at::kDouble)).abs().max().item<double>();
}

// A mixer without a state, whose extend is its forward.
class StatelessMixer : public nn::Mixer {
 public:
  at::Tensor extend(const at::Tensor& x, nn::State&, nn::Call& call) override { return forward(x, call); }
  double flops_per_token(int64_t) const override { return 0; }
};

// A stack of blocks with one branch each, without a norm, added to the stream; computed in fp32.
class Blocks {
 public:
  nn::Block& add(std::unique_ptr<nn::Mixer> fn, double dropout = 0) {
    return add({nn::Place::none, nullptr, std::move(fn), std::make_unique<nn::AddResidual>(), dropout});
  }
  nn::Block& add(nn::Branch branch) {
    nn::Block& block = stack.add_block();
    block.add("mixer", std::move(branch));
    return block;
  }
  at::Tensor forward(const at::Tensor& x, nn::Call& call, int from = 0, int to = -1) {
    nn::Stream stream{x, {}};
    stack.forward(stream, call, from, to);
    return stream.resolve();
  }
  at::Tensor extend(const at::Tensor& x, nn::State& state, nn::Call& call, int from = 0, int to = -1) {
    nn::Stream stream{x, {}};
    stack.extend(stream, state, call, from, to);
    return stream.resolve();
  }

 private:
  at::ScalarType compute_ = at::kFloat;

 public:
  nn::Stack stack{&compute_};
};

// Gradients of sum(y * dy) for y = stack(x) in training: "x" and every parameter by name.
inline std::map<std::string, at::Tensor> gradients(Blocks& blocks, const at::Tensor& x, nn::Call& call) {
  blocks.stack.each_param([](const std::string&, nn::Param& p) { p.master().mutable_grad() = at::Tensor(); });
  const at::Tensor leaf = x.detach().clone().set_requires_grad(true);
  call.mode = nn::Mode::train;
  const at::Tensor y = blocks.forward(leaf, call);
  torch::autograd::backward({y}, {random(y.sizes(), 99)});
  std::map<std::string, at::Tensor> out = {{"x", leaf.grad()}, {"y", y.detach()}};
  blocks.stack.each_param([&](const std::string& name, nn::Param& p) { out[name] = p.master().grad().clone(); });
  return out;
}

inline void expect_same(const std::map<std::string, at::Tensor>& a, const std::map<std::string, at::Tensor>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [name, value] : a) EXPECT_TRUE(same_bits(value, b.at(name))) << name;
}

}  // namespace rattan::probes
