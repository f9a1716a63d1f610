#include "rattan/ops/few_rows.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <utility>

#include "rattan/kernels/few_rows_linear.h"
#include "rattan/ops/launch.h"
#include "rattan/ops/ops.h"

namespace rattan::ops {
namespace few_rows_file {

using at::Tensor;

thread_local bool wanted = false;

bool fits(const Tensor& x, const Tensor& weight) {
  const bool types = x.scalar_type() == weight.scalar_type() &&
                     ((x.is_cpu() && x.scalar_type() == at::kFloat) || x.scalar_type() == at::kBFloat16);
  const bool differentiated = at::GradMode::is_enabled() && (x.requires_grad() || weight.requires_grad());
  return wanted && types && !differentiated && x.device() == weight.device() && (x.is_cpu() || x.is_cuda()) &&
         weight.dim() == 2 && weight.stride(1) == 1 && x.dim() >= 1 && x.size(-1) == weight.size(1) && x.numel() > 0 &&
         x.numel() <= kernels::few_rows * x.size(-1);
}

template <class T>
kernels::FewRowsLinear<T> call_of(const Tensor& rows, const Tensor& weight, const Tensor& y) {
  kernels::FewRowsLinear<T> a;
  a.rows = rows.size(0), a.in = rows.size(1), a.out = weight.size(0);
  a.x = rows_ref<const T>(rows), a.w = rows_ref<const T>(weight), a.y = rows_ref<T>(y);
  return a;
}

Tensor rows_of(const Tensor& x) { return x.reshape({-1, x.size(-1)}).contiguous(); }

}  // namespace few_rows_file

FewRowsScope::FewRowsScope() : before_(std::exchange(few_rows_file::wanted, true)) {}
FewRowsScope::~FewRowsScope() { few_rows_file::wanted = before_; }

std::optional<at::Tensor> few_rows_linear(const at::Tensor& x, const at::Tensor& weight) {
  using namespace few_rows_file;
  if (!fits(x, weight)) return std::nullopt;
  const Tensor rows = rows_of(x);
  std::vector<int64_t> shape = x.sizes().vec();
  shape.back() = weight.size(0);
  const Tensor y = at::empty({rows.size(0), weight.size(0)}, x.options());
#ifdef RATTAN_WITH_CUDA
  if (x.is_cuda()) {
    const auto a = call_of<bf16>(rows, weight, y);
    if (!kernels::cuda::takes_few_rows(a)) return std::nullopt;
    RATTAN_LAUNCH("linear", rows, few_rows_linear, a);
    return y.view(shape);
  }
#endif
  if (!x.is_cpu()) return std::nullopt;
  with_type("linear", x.scalar_type(), [&]<class T>() { kernels::few_rows_linear(call_of<T>(rows, weight, y)); });
  return y.view(shape);
}

bool add_few_rows_linear([[maybe_unused]] const at::Tensor& sum, const at::Tensor& x, const at::Tensor& weight) {
  using namespace few_rows_file;
  if (!x.is_cuda() || !fits(x, weight)) return false;
#ifdef RATTAN_WITH_CUDA
  const Tensor rows = rows_of(x), out = sum.view({rows.size(0), weight.size(0)});
  const auto a = call_of<bf16>(rows, weight, {});
  if (!kernels::cuda::takes_few_rows(a)) return false;
  on_device(
      "linear", rows, [] {},
      [&](void* stream) { kernels::cuda::add_few_rows_linear(a, rows_ref<float>(out), stream); });
  return true;
#else
  return false;
#endif
}

}  // namespace rattan::ops
