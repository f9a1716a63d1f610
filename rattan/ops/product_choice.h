// Which matrix products on a processor go to the project's own kernel and which to torch's library, which take an
// addition along, and how those in fp8 are summed. Fixed figures: nothing is timed at run time, so a machine always
// computes the same.
#pragma once
#include <cstdint>

#include "rattan/kernels/cpu/isa.h"

namespace rattan::ops {

// Multiply-adds from which the own fp32 product is used; below, starting threads costs what it wins.
inline constexpr int64_t own_product_least = int64_t{1} << 21;

// fp32 with AVX-512 on AMD's processors: there the library that torch comes with leaves half of the speed
// (docs/results/cpu-layer.md). On others it is good and stays; so it does for bf16, where oneDNN multiplies.
inline bool own_product_is_faster(kernels::Isa isa) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  return isa >= kernels::Isa::avx512 && __builtin_cpu_is("amd");
#else
  return isa > kernels::Isa::avx512bf16;
#endif
}

// Rows from which a product on CUDA is added to an fp32 stream as it is made. For 262,144 rows of 2,048 on an H100
// that costs 0.4 ms more than the product alone and saves the next norm 1.1 ms. Few rows were not measured.
inline constexpr int64_t add_linear_least_rows = 1024;

// Whether tensor cores may keep the sums of an fp8 product in their own short format instead of adding up partial sums
// in fp32: 1,305 instead of 1,109 TFLOP/s on an H100. Gradients get it too: their rounding to e4m3 is the larger error.
inline constexpr bool fp8_fast_sum_forward = true, fp8_fast_sum_backward = true;

}  // namespace rattan::ops
