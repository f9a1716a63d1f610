// Between torch tensors and kernels: references, dtype dispatch, device choice, schema handles.
#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <optional>

#include "rattan/base/error.h"
#include "rattan/kernels/tensor_ref.h"

#ifdef RATTAN_WITH_CUDA
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#endif

namespace rattan::ops {

using kernels::HeadsRef;
using kernels::RowsRef;
using OptionalTensor = std::optional<at::Tensor>;

template <class T>
T* pointer(const at::Tensor& t) {
  return t.defined() ? static_cast<T*>(t.data_ptr()) : nullptr;
}
template <class T>
T* pointer(const OptionalTensor& t) {
  return t ? pointer<T>(*t) : nullptr;
}

// [rows, heads, dim], last dimension contiguous; a null reference for an undefined tensor.
template <class T>
HeadsRef<T> heads_ref(const at::Tensor& t) {
  if (!t.defined()) return {};
  return {static_cast<T*>(t.data_ptr()), t.stride(0), t.stride(1)};
}
template <class T>
RowsRef<T> rows_ref(const at::Tensor& t) {
  if (!t.defined()) return {};
  return {static_cast<T*>(t.data_ptr()), t.stride(0)};
}

// The tensor itself if its last dimension is contiguous, else a copy.
inline at::Tensor dense_last(const at::Tensor& t) {
  return !t.defined() || t.size(-1) <= 1 || t.stride(-1) == 1 ? t : t.contiguous();
}
inline at::Tensor value_or_undefined(const OptionalTensor& t) { return t ? *t : at::Tensor(); }
inline OptionalTensor optional(const at::Tensor& t) { return t.defined() ? OptionalTensor(t) : std::nullopt; }

// Calls body.operator()<T>() with the kernels' type for `dtype`.
template <class Body>
auto with_type(const char* op, at::ScalarType dtype, Body&& body) {
  if (dtype == at::kFloat) return body.template operator()<float>();
  if (dtype == at::kBFloat16) return body.template operator()<bf16>();
  fail_input("rattan::{} takes float32 or bfloat16, got {}; other types have composite forms in the mixers", op,
             c10::toString(dtype));
}

// Runs `cpu()` or `cuda(stream)` by the device of `like`.
template <class Cpu, class Cuda>
void on_device(const char* op, const at::Tensor& like, Cpu&& cpu, [[maybe_unused]] Cuda&& cuda) {
  if (like.is_cpu()) return cpu();
#ifdef RATTAN_WITH_CUDA
  if (like.is_cuda()) {
    c10::cuda::CUDAGuard guard(like.device());
    return cuda(static_cast<void*>(c10::cuda::getCurrentCUDAStream().stream()));
  }
#endif
  fail_input("rattan::{} has no kernel for device {} in this build", op, like.device().str());
}

template <class Signature>
auto handle(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

}  // namespace rattan::ops

// A kernel call on either device: RATTAN_LAUNCH("attention", q, kernels, attention_forward(a)) calls
// kernels::attention_forward(a) or kernels::cuda::attention_forward(a, stream).
#ifdef RATTAN_WITH_CUDA
#define RATTAN_LAUNCH(op, like, call, ...)                     \
  ::rattan::ops::on_device(                                    \
      op, like, [&] { ::rattan::kernels::call(__VA_ARGS__); }, \
      [&](void* stream) { ::rattan::kernels::cuda::call(__VA_ARGS__, stream); })
#define RATTAN_LAUNCH_SCRATCH(op, like, call, scratch_bytes, ...)                                                    \
  ::rattan::ops::on_device(                                                                                          \
      op, like, [&] { ::rattan::kernels::call(__VA_ARGS__); },                                                       \
      [&](void* stream) {                                                                                            \
        at::Tensor scratch = at::empty({::rattan::kernels::cuda::scratch_bytes}, (like).options().dtype(at::kByte)); \
        ::rattan::kernels::cuda::call(__VA_ARGS__, scratch.data_ptr(), stream);                                      \
      })
#define RATTAN_REGISTER(m_impl)                     \
  TORCH_LIBRARY_IMPL(rattan, CPU, m) { m_impl(m); } \
  TORCH_LIBRARY_IMPL(rattan, CUDA, m) { m_impl(m); }
#else
#define RATTAN_LAUNCH(op, like, call, ...) \
  ::rattan::ops::on_device(                \
      op, like, [&] { ::rattan::kernels::call(__VA_ARGS__); }, [](void*) {})
#define RATTAN_LAUNCH_SCRATCH(op, like, call, scratch_bytes, ...) RATTAN_LAUNCH(op, like, call, __VA_ARGS__)
#define RATTAN_REGISTER(m_impl) \
  TORCH_LIBRARY_IMPL(rattan, CPU, m) { m_impl(m); }
#endif
