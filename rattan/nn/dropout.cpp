#include "rattan/nn/dropout.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>

#include "rattan/base/error.h"
#include "rattan/base/parallel.h"

namespace rattan::nn {
namespace dropout_file {

// Philox on the host: the mask depends on seed and counter alone, not on device or threads.
at::Tensor draw_mask(at::IntArrayRef shape, double p, Rng& rng) {
  at::Tensor keep = at::empty(shape, at::kFloat);
  float* out = keep.data_ptr<float>();
  const int64_t n = keep.numel(), block = 4096;
  const auto scale = static_cast<float>(1 / (1 - p));
  const uint64_t seed = rng.seed(), stream = rng.stream(), first = rng.position();
  const auto threshold = static_cast<uint32_t>(p * 4294967295.0);
  parallel_for(ceil_div(n, block), [&](int64_t b) {
    for (int64_t i = b * block; i < std::min(n, (b + 1) * block); i += 4) {
      uint32_t words[4];
      Rng::philox(seed, stream, first + i / 4, words);
      for (int64_t j = i; j < std::min(i + 4, n); ++j) out[j] = words[j - i] >= threshold ? scale : 0.0f;
    }
  });
  rng.set_position(first + ceil_div(n, 4));
  return keep;
}

}  // namespace dropout_file

at::Tensor dropout(const at::Tensor& x, double p, const std::string& name, Call& call) {
  if (p <= 0 || !call.training()) return x;
  auto make = [&] {
    if (!call.rng) fail("dropout in training needs a random generator in the call");
    return dropout_file::draw_mask(x.sizes(), p, *call.rng);
  };
  at::Tensor keep =
      call.choices ? call.choices->pick(fmt::format("{}.{}.{}", call.slot, call.step, name), make) : make();
  return x * keep.to(x.options());
}

}  // namespace rattan::nn
