// A bias-free linear map, weight [out, in], stored as the parameter "<name>.weight" of its owner.
#pragma once
#include "rattan/nn/call.h"
#include "rattan/nn/module.h"

namespace rattan::nn {

class Linear : public Module {
 public:
  Linear(int64_t in, int64_t out, double init_std);
  at::Tensor operator()(const at::Tensor& x) const;  // [..., in] -> [..., out] in x's type
  // The last map of a mixer's extend: [..., in] -> the shape of `like`, or undefined where it was added to the
  // stream that the call offers.
  at::Tensor join(const at::Tensor& x, const at::Tensor& like, Call& call) const;
  const Param& weight() const { return weight_; }
  double flops() const { return 2.0 * static_cast<double>(weight_.numel()); }

 private:
  Param& weight_;
};

}  // namespace rattan::nn
