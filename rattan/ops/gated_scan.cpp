#include "rattan/kernels/gated_scan.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <utility>

#include "rattan/ops/launch.h"
#include "rattan/ops/ops.h"

namespace rattan::ops {
namespace gated_scan_file {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t segment_columns = sizeof(kernels::ScanSegment) / sizeof(int32_t);

// A table made by hand must not make a kernel read or write elsewhere. Device tables are the caller's word.
void check_table(const Tensor& table, int64_t tokens, int64_t initial_rows, int64_t rows) {
  if (!table.is_cpu()) return;
  const auto* segment = static_cast<const kernels::ScanSegment*>(table.data_ptr());
  for (int64_t i = 0, free_from = 0; i < table.size(0); free_from = segment[i++].end)
    require(segment[i].begin >= free_from && segment[i].end >= segment[i].begin && segment[i].end <= tokens &&
                segment[i].from < initial_rows && segment[i].to < rows,
            "rattan::gated_scan: segment {} [{}, {}) from {} to {} does not fit {} tokens, {} initial and {} final "
            "states, in ascending order",
            i, segment[i].begin, segment[i].end, segment[i].from, segment[i].to, tokens, initial_rows, rows);
}

template <class Args>
void fill_inputs(Args& a, const Tensor& x, const Tensor& gate, const Tensor& gate_bias, const Tensor& table,
                 const OptionalTensor& initial) {
  require(x.dim() == 2 && x.sizes() == gate.sizes() && x.scalar_type() == gate.scalar_type(),
          "rattan::gated_scan: x and gate must both be [N, C] of one type");
  require(gate_bias.numel() == x.size(1) && gate_bias.scalar_type() == at::kFloat,
          "rattan::gated_scan: gate_bias must be float32 [{}]", x.size(1));
  require(
      table.dim() == 2 && table.size(1) == segment_columns && table.scalar_type() == at::kInt && table.is_contiguous(),
      "rattan::gated_scan: the segment table must be contiguous int32 [segments, {}]", segment_columns);
  require(!initial || (initial->dim() == 2 && initial->size(1) == x.size(1) && initial->is_contiguous() &&
                       initial->scalar_type() == at::kFloat),
          "rattan::gated_scan: the initial states must be contiguous float32 [R, {}]", x.size(1));
  a.tokens = x.size(0), a.channels = x.size(1), a.segments = table.size(0);
  a.table = static_cast<const kernels::ScanSegment*>(table.data_ptr());
  using Row = std::remove_reference_t<decltype(*a.x.data)>;
  a.x = rows_ref<Row>(x), a.gate = rows_ref<Row>(gate);
  a.gate_bias = pointer<const float>(gate_bias);
  a.initial = pointer<const float>(initial);
}

std::tuple<Tensor, Tensor> forward(const Tensor& x_in, const Tensor& gate_in, const Tensor& gate_bias,
                                   const Tensor& table, const OptionalTensor& initial, int64_t rows) {
  const Tensor x = dense_last(x_in), gate = dense_last(gate_in);
  require(x.dim() == 2 && rows >= 1, "rattan::gated_scan: x must be [N, C] and rows at least 1, got {}", rows);
  Tensor h = at::empty(x.sizes(), x.options());
  Tensor final = at::zeros({rows, x.size(1)}, x.options().dtype(at::kFloat));
  if (initial) {
    require(initial->sizes() == at::IntArrayRef({rows, x.size(1)}),
            "rattan::gated_scan: there must be {} initial states of {} channels", rows, x.size(1));
    final.copy_(*initial);
  }
  with_type("gated_scan", x.scalar_type(), [&]<class T>() {
    kernels::GatedScanForward<T> a;
    fill_inputs(a, x, gate, gate_bias, table, initial);
    check_table(table, x.size(0), initial ? initial->size(0) : 0, rows);
    a.final = pointer<float>(final), a.h = rows_ref<T>(h);
    RATTAN_LAUNCH_SCRATCH("gated_scan", x, gated_scan_forward,
                          gated_scan_forward_scratch_bytes(a.tokens, a.channels, a.segments), a);
  });
  return {h, final};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(const Tensor& x_in, const Tensor& gate_in, const Tensor& gate_bias,
                                                    const Tensor& table, const OptionalTensor& initial,
                                                    const Tensor& d_h_in, const OptionalTensor& d_final_in) {
  const Tensor x = dense_last(x_in), gate = dense_last(gate_in), d_h = dense_last(d_h_in);
  const Tensor d_final = d_final_in ? d_final_in->contiguous() : Tensor();
  Tensor d_x = at::empty(x.sizes(), x.options()), d_gate = at::empty(x.sizes(), x.options());
  Tensor d_bias = at::empty_like(gate_bias), d_initial = initial ? at::zeros_like(*initial) : Tensor();
  with_type("gated_scan", x.scalar_type(), [&]<class T>() {
    kernels::GatedScanBackward<T> a;
    fill_inputs(a, x, gate, gate_bias, table, initial);
    a.d_h = rows_ref<const T>(d_h), a.d_final = pointer<const float>(d_final);
    a.d_x = rows_ref<T>(d_x), a.d_gate = rows_ref<T>(d_gate);
    a.d_gate_bias = pointer<float>(d_bias), a.d_initial = pointer<float>(d_initial);
    RATTAN_LAUNCH_SCRATCH("gated_scan", x, gated_scan_backward,
                          gated_scan_backward_scratch_bytes(a.tokens, a.channels, a.segments), a);
  });
  return {d_x, d_gate, d_bias, d_initial};
}

// Sizes of results may be symbols when a compiler traces.
using Symbolic = std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                            const OptionalTensor&, c10::SymInt);

class GatedScan : public torch::autograd::Function<GatedScan> {
 public:
  static variable_list forward(AutogradContext* ctx, const Tensor& x, const Tensor& gate, const Tensor& gate_bias,
                               const Tensor& table, const OptionalTensor& initial, c10::SymInt rows) {
    at::AutoDispatchBelowADInplaceOrView below;
    static auto op = handle<Symbolic>("rattan::gated_scan");
    auto [h, final] = op.call(x, gate, gate_bias, table, initial, std::move(rows));
    ctx->save_for_backward({x, gate, gate_bias, table, value_or_undefined(initial)});
    ctx->set_materialize_grads(false);
    return {h, final};
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    auto s = ctx->get_saved_variables();
    Tensor d_h = grads[0].defined() ? grads[0] : at::zeros_like(s[0]);
    static auto op = handle<decltype(gated_scan_file::backward)>("rattan::gated_scan_backward");
    auto [d_x, d_gate, d_bias, d_initial] = op.call(s[0], s[1], s[2], s[3], optional(s[4]), d_h, optional(grads[1]));
    return {d_x, d_gate, d_bias, {}, d_initial, {}};
  }
};

std::tuple<Tensor, Tensor> differentiable(const Tensor& x, const Tensor& gate, const Tensor& gate_bias,
                                          const Tensor& table, const OptionalTensor& initial, c10::SymInt rows) {
  auto out = GatedScan::apply(x, gate, gate_bias, table, initial, std::move(rows));
  return {out[0], out[1]};
}

void kernels_of(torch::Library& m) {
  m.impl("gated_scan", forward);
  m.impl("gated_scan_backward", backward);
}

TORCH_LIBRARY_FRAGMENT(rattan, m) {
  m.def(
      "gated_scan(Tensor x, Tensor gate, Tensor gate_bias, Tensor table, Tensor? initial, SymInt rows) -> "
      "(Tensor h, Tensor final)");
  m.def(
      "gated_scan_backward(Tensor x, Tensor gate, Tensor gate_bias, Tensor table, Tensor? initial, Tensor d_h, "
      "Tensor? d_final) -> (Tensor, Tensor, Tensor, Tensor)");
}
RATTAN_REGISTER(kernels_of)
TORCH_LIBRARY_IMPL(rattan, Autograd, m) { m.impl("gated_scan", differentiable); }

}  // namespace gated_scan_file

std::tuple<at::Tensor, at::Tensor> gated_scan(const at::Tensor& x, const at::Tensor& gate, const at::Tensor& gate_bias,
                                              const at::Tensor& table, const at::Tensor& initial, int64_t rows) {
  static auto op = handle<decltype(gated_scan_file::forward)>("rattan::gated_scan");
  return op.call(x, gate, gate_bias, table, optional(initial), rows);
}

}  // namespace rattan::ops
