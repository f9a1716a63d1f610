// What the generic suite needs: every registered mixer type (and any other) with a few option sets, in every
// computing type, on every device at hand; random inputs from a printed seed.
#pragma once
#include <ATen/core/Tensor.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "rattan/nn/mixers/registry.h"

namespace rattan::mixer_suite {

constexpr int64_t d_model = 32;

struct MixerCase {
  std::string label, options;  // options: TOML of a [mixers.<name>] table
  at::ScalarType dtype = at::kFloat;
  at::Device device = at::kCPU;
  bool attends = true;
  const nn::MixerType* outside = nullptr;  // instead of the registry's type
};
void PrintTo(const MixerCase& c, std::ostream* out);
std::string name_of(const testing::TestParamInfo<MixerCase>& info);

// All option sets x {fp64, fp32, bf16} x {CPU, CUDA where there is one}. Fails where a registered type has no option
// set.
std::vector<MixerCase> cases();

struct Errors {
  double value, gradient;  // largest allowed difference relative to the largest magnitude
};
// float64: rounding of a few hundred operations. fp32: the same, with reordered sums. bf16: two or three roundings
// of 2^-9 on each path, whose gates multiply.
Errors errors_of(at::ScalarType dtype);

// On the case's device.
std::unique_ptr<nn::Mixer> make_mixer(const MixerCase& c, at::ScalarType dtype, uint64_t seed);

// Standard normal [B, T, d_model], rounded to bf16 so that every computing type reads the same numbers.
at::Tensor random_input(int64_t rows, int64_t tokens, uint64_t seed);

// max |a - b| / max |b|, in float64; infinite if anything is not finite.
double difference(const at::Tensor& a, const at::Tensor& b);
bool same_bits(const at::Tensor& a, const at::Tensor& b);

// These run where x is. y = forward(x) on a plain layout, without gradients.
at::Tensor run_forward(nn::Mixer& mixer, const at::Tensor& x, nn::State* carry = nullptr);
at::Tensor run_forward(nn::Mixer& mixer, const at::Tensor& x, const nn::Layout& layout);

// Feeds row tokens [from, to) of x to the state rows 0..B-1.
at::Tensor run_extend(nn::Mixer& mixer, const at::Tensor& x, int64_t from, int64_t to, nn::State& state);

// Gradients of sum(y * dy) with respect to x ("x") and every parameter.
std::map<std::string, at::Tensor> gradients(nn::Mixer& mixer, const at::Tensor& x, const at::Tensor& dy,
                                            const nn::Layout& layout);

}  // namespace rattan::mixer_suite
