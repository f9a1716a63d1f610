// The matrix products of a RAT layer and nothing else: what no faster mixing kernel can take away. Against them a
// layer's time splits into its products and the rest.
#pragma once
#include <ATen/core/Tensor.h>

#include "rattan/bench/subject.h"
#include "rattan/ops/fp8.h"

namespace rattan::bench {

// [rows, d_model] x [d_model, width] and [rows, d_model] x [d_model, d_model]; with `backward` also the products
// of their gradients, for inputs and weights. Random values. In fp8, rounding the factors is part of it, as it is in
// the layer: the weights' too in training, where every step has new ones.
class Products : public Subject {
 public:
  Products(int64_t rows, int64_t d_model, int64_t width, bool backward, at::ScalarType dtype, at::Device device,
           ops::Fp8 fp8 = ops::Fp8::off);
  void run() override;
  double flops() const override;
  double bytes() const override;

 private:
  at::Tensor x_, mixed_, w_in_, w_out_;  // as in the layer: weights [out, in]
  at::Tensor d_proj_, d_y_;              // undefined without backward
  ops::Fp8 fp8_;
  ops::Fp8Rows w_in_rows_, w_out_rows_;  // in fp8 without backward
};

}  // namespace rattan::bench
