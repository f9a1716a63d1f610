// gelu(x) = x Phi(x), Phi the distribution function of the standard normal distribution.
#pragma once

namespace rattan::kernels::cuda {

__device__ inline float normal_cdf(float x) { return 0.5f * (1.0f + erff(x * 0.70710678118654752f)); }
__device__ inline float gelu(float x) { return x * normal_cdf(x); }

}  // namespace rattan::kernels::cuda
