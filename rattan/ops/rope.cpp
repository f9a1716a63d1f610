#include "rattan/kernels/rope.h"

#include <ATen/ops/empty.h>
#include <fmt/ranges.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <map>
#include <mutex>
#include <vector>

#include "rattan/ops/launch.h"
#include "rattan/ops/ops.h"

namespace rattan::ops {
namespace rope_file {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

Tensor rotate(const Tensor& x_in, const Tensor& position, const Tensor& cos, const Tensor& sin, bool inverse) {
  require(x_in.dim() == 3 && x_in.size(2) % 2 == 0 && cos.size(-1) * 2 == x_in.size(2),
          "rattan::rope: x must be [N, H, p] with tables [positions, p/2], got x {} and tables of {}",
          fmt::join(x_in.sizes(), "x"), cos.size(-1));
  require(position.numel() == x_in.size(0) && position.scalar_type() == at::kInt && position.is_contiguous(),
          "rattan::rope: position must be int32 [{}]", x_in.size(0));
  require(cos.sizes() == sin.sizes() && cos.dim() == 2 && cos.scalar_type() == at::kFloat &&
              sin.scalar_type() == at::kFloat && cos.is_contiguous() && sin.is_contiguous(),
          "rattan::rope: cos and sin must be contiguous float32 tables of one shape");
  if (position.is_cpu()) {
    const auto* p = pointer<const int32_t>(position);
    for (int64_t i = 0; i < position.numel(); ++i)
      require(p[i] >= 0 && p[i] < cos.size(0), "rattan::rope: position {} of row {} is not in a table of {}", p[i], i,
              cos.size(0));
  }
  const Tensor x = dense_last(x_in);
  Tensor out = at::empty(x.sizes(), x.options());
  with_type("rope", x.scalar_type(), [&]<class T>() {
    kernels::Rope<T> a;
    a.rows = x.size(0), a.heads = x.size(1), a.dim = x.size(2);
    a.position = pointer<const int32_t>(position), a.cos = pointer<const float>(cos), a.sin = pointer<const float>(sin);
    a.inverse = inverse;
    a.x = heads_ref<const T>(x), a.out = heads_ref<T>(out);
    RATTAN_LAUNCH("rope", x, rope, a);
  });
  return out;
}

class Rotate : public torch::autograd::Function<Rotate> {
 public:
  static variable_list forward(AutogradContext* ctx, const Tensor& x, const Tensor& position, const Tensor& cos,
                               const Tensor& sin, bool inverse) {
    at::AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({position, cos, sin});
    ctx->saved_data["inverse"] = inverse;
    static auto op = handle<decltype(rotate)>("rattan::rope");
    return {op.call(x, position, cos, sin, inverse)};
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    auto s = ctx->get_saved_variables();
    static auto op = handle<decltype(rotate)>("rattan::rope");
    return {op.call(grads[0], s[0], s[1], s[2], !ctx->saved_data["inverse"].toBool()), {}, {}, {}, {}};
  }
};

Tensor differentiable(const Tensor& x, const Tensor& position, const Tensor& cos, const Tensor& sin, bool inverse) {
  return Rotate::apply(x, position, cos, sin, inverse)[0];
}

void kernels_of(torch::Library& m) { m.impl("rope", rotate); }

TORCH_LIBRARY_FRAGMENT(rattan, m) {
  m.def("rope(Tensor x, Tensor position, Tensor cos, Tensor sin, bool inverse=False) -> Tensor");
}
RATTAN_REGISTER(kernels_of)
TORCH_LIBRARY_IMPL(rattan, Autograd, m) { m.impl("rope", differentiable); }

struct TableKey {
  int64_t dim;
  double base;
  std::string device;
  auto operator<=>(const TableKey&) const = default;
};

}  // namespace rope_file

at::Tensor rope(const at::Tensor& x, const at::Tensor& position, const at::Tensor& cos, const at::Tensor& sin) {
  static auto op = handle<decltype(rope_file::rotate)>("rattan::rope");
  return op.call(x, position, cos, sin, false);
}

std::tuple<at::Tensor, at::Tensor> rope_tables(int64_t positions, int64_t dim, double base, at::Device device) {
  static std::mutex mutex;
  // Never destroyed: at the end of the program the GPU may be gone before they are.
  static auto& tables = *new std::map<rope_file::TableKey, std::tuple<at::Tensor, at::Tensor>>;
  std::lock_guard lock(mutex);
  auto& [cos, sin] = tables[{dim, base, device.str()}];
  if (!cos.defined() || cos.size(0) < positions) {
    int64_t rows = 64;
    while (rows < positions) rows *= 2;
    at::Tensor host_cos = at::empty({rows, dim / 2}, at::kFloat), host_sin = at::empty({rows, dim / 2}, at::kFloat);
    kernels::rope_table(rows, dim, base, host_cos.data_ptr<float>(), host_sin.data_ptr<float>());
    // A recorded graph may go on reading the smaller tables, so they stay: together no larger than the new ones.
    static auto& outgrown = *new std::vector<at::Tensor>;
    if (cos.defined()) outgrown.insert(outgrown.end(), {cos, sin});
    cos = host_cos.to(device), sin = host_sin.to(device);
  }
  return {cos, sin};
}

}  // namespace rattan::ops
