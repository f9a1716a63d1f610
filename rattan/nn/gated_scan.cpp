#include "rattan/nn/gated_scan.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "rattan/nn/scan_reference.h"
#include "rattan/ops/ops.h"

namespace rattan::nn {
namespace gated_scan_file {

GatedScan reference(const at::Tensor& x, const at::Tensor& g, const Layout& layout, const at::Tensor& initial,
                    int64_t rows) {
  std::vector<ScanRun> runs;
  std::vector<int32_t> to, from_run;
  for (const Segment& s : layout.segments()) {
    if (s.to >= 0) to.push_back(s.to), from_run.push_back(static_cast<int32_t>(runs.size()));
    const auto first = static_cast<int32_t>(layout.first_token(s));
    runs.push_back({first, first + s.length(), initial.defined() ? s.from : -1});
  }
  const ScanResult r = scan_reference(x, g, runs, initial);
  const at::Tensor base = initial.defined() ? initial : at::zeros({rows, x.size(1)}, x.options());
  auto index = [&](const std::vector<int32_t>& values) {
    return int_table(values, 1, layout.device()).view({-1}).to(at::kLong);
  };
  return {r.h, base.index_copy(0, index(to), r.last.index_select(0, index(from_run)))};
}

}  // namespace gated_scan_file

GatedScan gated_scan(const at::Tensor& x, const at::Tensor& gate, const Param& bias, const Layout& layout,
                     const at::Tensor& state) {
  const bool exact = x.scalar_type() == at::kDouble;
  const int64_t rows = std::max<int64_t>({1, layout.state_rows(), state.defined() ? state.size(0) : int64_t{0}});
  // Segments may name state rows before there is a state.
  const bool named = !state.defined() && layout.state_rows() > 0;
  const at::Tensor initial =
      named ? at::zeros({rows, x.size(1)}, x.options().dtype(exact ? at::kDouble : at::kFloat)) : state;
  if (exact) return gated_scan_file::reference(x, at::sigmoid(gate + bias(at::kDouble)), layout, initial, rows);
  auto [h, last] = ops::gated_scan(x, gate, bias(at::kFloat), layout.scan_table(), initial, rows);
  return {h, last};
}

}  // namespace rattan::nn
