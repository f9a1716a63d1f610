// The operators under torch.autocast: streams of activations and the weights they meet take the region's type; gate
// biases, norm weights, row weights and running states stay fp32, as all statistics do. The program never enters such
// a region; these rules are for Python.
#include <ATen/core/Tensor.h>
#include <ATen/core/stack.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/library.h>

#include <algorithm>
#include <string_view>

#include "rattan/ops/launch.h"

// Of ATen/autocast_mode.h, which would bring the whole of ATen/ATen.h with it.
namespace at::autocast {
TORCH_API at::ScalarType get_autocast_dtype(at::DeviceType device_type);
}

namespace rattan::ops {
namespace autocast_file {

constexpr std::string_view operators[] = {"attention", "rat",  "rat_extend_", "gated_scan",  "add_rms_norm",
                                          "rope",      "gelu", "swiglu",      "sigmoid_mul", "linear_cross_entropy"};
constexpr std::string_view fp32_arguments[] = {"gate_bias", "weight",    "cos",      "sin",
                                               "initial",   "running_k", "running_v"};

// float64 is the caller's explicit wish, and the kernels say themselves that they do not have it.
bool takes_part(const c10::IValue& value) {
  return value.isTensor() && value.toTensor().defined() && value.toTensor().is_floating_point() &&
         value.toTensor().scalar_type() != at::kDouble;
}

void rule(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& arguments = op.schema().arguments();
  const std::string& name = op.schema().name();
  const bool norm = name == "rattan::add_rms_norm";  // its x is the stream, fp32 as well
  const std::size_t base = stack->size() - arguments.size();
  const auto region = at::autocast::get_autocast_dtype((*stack)[base].toTensor().device().type());
  require(region == at::kBFloat16 || region == at::kFloat,
          "{} runs in bfloat16 under autocast, not in {}; use torch.autocast(..., dtype=torch.bfloat16)", name,
          c10::toString(region));
  c10::impl::ExcludeDispatchKeyGuard left(c10::autocast_dispatch_keyset);
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    c10::IValue& value = (*stack)[base + i];
    const bool written = arguments[i].alias_info() && arguments[i].alias_info()->isWrite();
    const bool fp32 =
        std::ranges::count(fp32_arguments, arguments[i].name()) > 0 || (norm && arguments[i].name() == "x");
    if (takes_part(value) && !written) value = value.toTensor().to(fp32 ? at::kFloat : region);
    if (norm && arguments[i].name() == "dtype") value = static_cast<int64_t>(region);
  }
  op.callBoxed(stack);
}

void rules(torch::Library& m) {
  for (std::string_view name : operators) m.impl(name.data(), torch::CppFunction::makeFromBoxedFunction<&rule>());
}

TORCH_LIBRARY_IMPL(rattan, AutocastCPU, m) { rules(m); }
TORCH_LIBRARY_IMPL(rattan, AutocastCUDA, m) { rules(m); }

}  // namespace autocast_file
}  // namespace rattan::ops
