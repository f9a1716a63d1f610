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

bool shapes_fit(const Tensor& x, const Tensor& weight) {
  const bool differentiated = at::GradMode::is_enabled() && (x.requires_grad() || weight.requires_grad());
  return wanted && !differentiated && x.device() == weight.device() && (x.is_cpu() || x.is_cuda()) &&
         weight.dim() == 2 && weight.stride(1) == 1 && x.dim() >= 1 && x.size(-1) == weight.size(1) && x.numel() > 0 &&
         x.numel() <= kernels::few_rows * x.size(-1);
}

bool fits(const Tensor& x, const Tensor& weight) {
  const bool types = x.scalar_type() == weight.scalar_type() &&
                     ((x.is_cpu() && x.scalar_type() == at::kFloat) || x.scalar_type() == at::kBFloat16);
  return types && shapes_fit(x, weight);
}

template <class T>
kernels::FewRowsLinear<T> call_of(const Tensor& rows, const Tensor& weight, const Tensor& y) {
  kernels::FewRowsLinear<T> a;
  a.rows = rows.size(0), a.in = rows.size(1), a.out = weight.size(0);
  a.x = rows_ref<const T>(rows), a.w = rows_ref<const T>(weight), a.y = rows_ref<T>(y);
  return a;
}

// [..., out] for x [..., in].
std::vector<int64_t> result_shape(const Tensor& x, const Tensor& weight) {
  std::vector<int64_t> shape = x.sizes().vec();
  shape.back() = weight.size(0);
  return shape;
}

Tensor rows_of(const Tensor& x) { return x.reshape({-1, x.size(-1)}).contiguous(); }

#ifdef RATTAN_WITH_CUDA
// Launches the product on the device of `rows`; false, and nothing is done, for what the kernel does not take.
bool launched(const Tensor& rows, const kernels::FewRowsLinear<bf16>& a, const kernels::cuda::FewRowsEnds& ends = {}) {
  if (!kernels::cuda::takes_few_rows(a, ends)) return false;
  on_device(
      "linear", rows, [] {}, [&](void* stream) { kernels::cuda::few_rows_linear(a, stream, ends); });
  return true;
}
#endif

}  // namespace few_rows_file

FewRowsScope::FewRowsScope() : before_(std::exchange(few_rows_file::wanted, true)) {}
FewRowsScope::~FewRowsScope() { few_rows_file::wanted = before_; }

std::optional<at::Tensor> few_rows_linear(const at::Tensor& x, const at::Tensor& weight) {
  using namespace few_rows_file;
  if (!fits(x, weight)) return std::nullopt;
  const Tensor rows = rows_of(x);
  const Tensor y = at::empty({rows.size(0), weight.size(0)}, x.options());
#ifdef RATTAN_WITH_CUDA
  if (x.is_cuda()) {
    if (!launched(rows, call_of<bf16>(rows, weight, y))) return std::nullopt;
    return y.view(result_shape(x, weight));
  }
#endif
  if (!x.is_cpu()) return std::nullopt;
  with_type("linear", x.scalar_type(), [&]<class T>() { kernels::few_rows_linear(call_of<T>(rows, weight, y)); });
  return y.view(result_shape(x, weight));
}

bool add_few_rows_linear([[maybe_unused]] const at::Tensor& sum, const at::Tensor& x, const at::Tensor& weight) {
  using namespace few_rows_file;
  if (!x.is_cuda() || !fits(x, weight)) return false;
#ifdef RATTAN_WITH_CUDA
  const Tensor rows = rows_of(x), out = sum.view({rows.size(0), weight.size(0)});
  kernels::cuda::FewRowsEnds ends;
  ends.sum = rows_ref<float>(out);
  return launched(rows, call_of<bf16>(rows, weight, {}), ends);
#else
  return false;
#endif
}

std::optional<at::Tensor> few_rows_wide_linear(const at::Tensor& x, const at::Tensor& weight) {
  using namespace few_rows_file;
  if (!x.is_cuda() || !fits(x, weight)) return std::nullopt;
#ifdef RATTAN_WITH_CUDA
  const Tensor rows = rows_of(x);
  const Tensor y = at::empty({rows.size(0), weight.size(0)}, x.options().dtype(at::kFloat));
  kernels::cuda::FewRowsEnds ends;
  ends.wide = rows_ref<float>(y);
  if (!launched(rows, call_of<bf16>(rows, weight, {}), ends)) return std::nullopt;
  return y.view(result_shape(x, weight));
#else
  return std::nullopt;
#endif
}

std::optional<at::Tensor> few_rows_norm_linear(const at::Tensor& x, const NormToCome& norm, const at::Tensor& weight,
                                               [[maybe_unused]] bool gelu) {
  using namespace few_rows_file;
  if (!x.is_cuda() || x.scalar_type() != at::kFloat || norm.dtype != at::kBFloat16 ||
      weight.scalar_type() != at::kBFloat16 || !shapes_fit(x, weight))
    return std::nullopt;
#ifdef RATTAN_WITH_CUDA
  const Tensor rows = rows_of(x), scale = norm.weight.contiguous();
  const Tensor y = at::empty({rows.size(0), weight.size(0)}, weight.options());
  kernels::FewRowsLinear<bf16> a;
  a.rows = rows.size(0), a.in = rows.size(1), a.out = weight.size(0);
  a.w = rows_ref<const bf16>(weight), a.y = rows_ref<bf16>(y);
  kernels::cuda::FewRowsEnds ends;
  ends.norm_x = rows_ref<const float>(rows), ends.norm_weight = static_cast<const float*>(scale.const_data_ptr());
  ends.eps = static_cast<float>(norm.eps), ends.gelu = gelu;
  if (!launched(rows, a, ends)) return std::nullopt;
  return y.view(result_shape(x, weight));
#else
  return std::nullopt;
#endif
}

bool joins_norm(const at::Tensor& x, at::ScalarType dtype) {
  return few_rows_file::wanted && x.is_cuda() && x.scalar_type() == at::kFloat && dtype == at::kBFloat16 &&
         x.size(-1) <= kernels::cuda::few_rows_norm_width && x.numel() <= kernels::cuda::few_rows_norm * x.size(-1);
}

at::Tensor wide_linear(const at::Tensor& x, const at::Tensor& weight) {
  if (auto y = few_rows_wide_linear(x, weight)) return *y;
  at::Tensor y = linear(x, weight);
  return y.scalar_type() == at::kDouble ? y : y.to(at::kFloat);
}

at::Tensor normed(const at::Tensor& x, const NormToCome& norm) {
  return std::get<1>(add_rms_norm(x, {}, norm.weight, norm.eps, norm.dtype));
}

at::Tensor norm_linear(const at::Tensor& x, const NormToCome& norm, const at::Tensor& weight, bool gelu) {
  if (auto y = few_rows_norm_linear(x, norm, weight, gelu)) return *y;
  at::Tensor y = linear(normed(x, norm), weight);
  return gelu ? ops::gelu(y) : y;
}

}  // namespace rattan::ops
