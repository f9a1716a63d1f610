#include "rattan/nn/linear.h"

#include <ATen/ops/gelu.h>

#include "rattan/base/error.h"
#include "rattan/nn/stream.h"
#include "rattan/ops/ops.h"

namespace rattan::nn {

Linear::Linear(int64_t in, int64_t out, double init_std)
    : weight_(param("weight", {out, in}, Init::normal(init_std))) {}

at::Tensor Linear::operator()(const at::Tensor& x) const {
  if (fp8_ == ops::Fp8::off) return ops::linear(x, weight_.weight(x.scalar_type()));
  const at::Tensor weight = weight_(x.scalar_type());
  return ops::fp8_linear(x, weight, fp8_, weight_.fp8_rows(weight));
}

at::Tensor Linear::enter(const at::Tensor& x, const Call& call, bool gelu) const {
  const ops::NormToCome* norm = call.norm;
  if (norm && fp8_ == ops::Fp8::off) return ops::norm_linear(x, *norm, weight_(norm->dtype), gelu);
  at::Tensor y = (*this)(norm ? ops::normed(x, *norm) : x);
  if (!gelu) return y;
  return y.scalar_type() == at::kDouble ? at::gelu(y) : ops::gelu(y);
}

at::Tensor Linear::join(const at::Tensor& x, const at::Tensor& like, Call& call) const {
  // No product in fp8 adds to what is there: its output stays pending.
  if (call.stream && fp8_ == ops::Fp8::off) {
    if (auto added = ops::add_linear_(call.stream->x, x, weight_.weight(x.scalar_type()))) {
      call.stream->x = added->sum;
      if (call.training()) call.stream->added = added->branch;
      return {};
    }
  }
  return (*this)(x).view_as(like);
}

std::string fp8_obstacle(Module& root) {
  std::string found;
  root.each_module([&](Module& module) {
    auto* linear = dynamic_cast<Linear*>(&module);
    if (!linear || !found.empty()) return;
    const auto& shape = linear->weight().shape();
    if (shape[0] % 16 != 0 || shape[1] % 16 != 0)
      found = fmt::format("fp8 products need sides that are multiples of 16, and a projection has [{}, {}]", shape[0],
                          shape[1]);
  });
  return found;
}

void set_fp8(Module& root, ops::Fp8 fp8, at::Device device) {
  ops::require_fp8(fp8, device);
  const std::string obstacle = fp8 == ops::Fp8::off ? "" : fp8_obstacle(root);
  require(obstacle.empty(), "{}; change the width, or use bf16", obstacle);
  root.each_module([&](Module& module) {
    if (auto* linear = dynamic_cast<Linear*>(&module)) linear->set_fp8(fp8);
  });
}

}  // namespace rattan::nn
