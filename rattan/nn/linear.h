// A bias-free linear map, weight [out, in], stored as the parameter "<name>.weight" of its owner.
#pragma once
#include "rattan/nn/call.h"
#include "rattan/nn/module.h"
#include "rattan/ops/fp8.h"

namespace rattan::nn {

class Linear : public Module {
 public:
  Linear(int64_t in, int64_t out, double init_std);
  at::Tensor operator()(const at::Tensor& x) const;  // [..., in] -> [..., out] in x's type
  // The first map of a mixer that takes call.norm, then gelu if asked.
  at::Tensor enter(const at::Tensor& x, const Call& call, bool gelu = false) const;
  // The last map of a mixer: [..., in] -> the shape of `like`, or undefined where it was added to the
  // stream that the call offers.
  at::Tensor join(const at::Tensor& x, const at::Tensor& like, Call& call) const;
  const Param& weight() const { return weight_; }
  // In fp8 (ops/fp8.h) or, as it begins, in the input's type. Masters, and gradients of the weight, stay as they are.
  void set_fp8(ops::Fp8 fp8) { fp8_ = fp8; }
  double flops() const { return 2.0 * static_cast<double>(weight_.numel()); }

 private:
  Param& weight_;
  ops::Fp8 fp8_ = ops::Fp8::off;
};

// Sets it for every Linear below `root`: the projections of mixers and feed-forward layers; embeddings are none, and an
// output head reads its weight itself. InputError for a device that cannot do it (`device`) or a matrix whose sides are
// not multiples of 16.
void set_fp8(Module& root, ops::Fp8 fp8, at::Device device);
// What keeps the matrices below `root` from fp8, "" if nothing does.
std::string fp8_obstacle(Module& root);

}  // namespace rattan::nn
