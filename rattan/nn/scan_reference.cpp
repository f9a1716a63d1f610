#include "rattan/nn/scan_reference.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstring>

namespace rattan::nn {
namespace scan_reference_file {

at::Tensor index_of(const std::vector<int64_t>& values, at::Device device) {
  at::Tensor host = at::empty({static_cast<int64_t>(values.size())}, at::kLong);
  if (!values.empty()) std::memcpy(host.data_ptr<int64_t>(), values.data(), values.size() * sizeof(int64_t));
  return host.to(device);
}

}  // namespace scan_reference_file

ScanResult scan_reference(const at::Tensor& x, const at::Tensor& g, const std::vector<ScanRun>& runs,
                          const at::Tensor& initial) {
  using scan_reference_file::index_of;
  const int64_t tokens = x.size(0), channels = x.size(1), count = static_cast<int64_t>(runs.size());
  int64_t longest = 0;
  for (const ScanRun& r : runs) longest = std::max<int64_t>(longest, r.end - r.begin);
  // Runs side by side, padded at the end with a row of gate 1, which keeps the state as it is.
  std::vector<int64_t> gather(count * longest, tokens), place(tokens, count * longest), from(count);
  const int64_t none = initial.defined() ? initial.size(0) : 0;
  for (int64_t j = 0; j < count; ++j) {
    from[j] = runs[j].from < 0 ? none : runs[j].from;
    for (int64_t t = runs[j].begin; t < runs[j].end; ++t) {
      gather[(t - runs[j].begin) * count + j] = t;
      place[t] = (t - runs[j].begin) * count + j;
    }
  }
  const at::Tensor zero = at::zeros({1, channels}, x.options());
  const at::Tensor index = index_of(gather, x.device());
  const at::Tensor xs = at::cat({x, zero}).index_select(0, index).view({longest, count, channels});
  const at::Tensor gs = at::cat({g, zero + 1}).index_select(0, index).view({longest, count, channels});
  at::Tensor h = (initial.defined() ? at::cat({initial.to(x.scalar_type()), zero}) : zero)
                     .index_select(0, index_of(from, x.device()));
  std::vector<at::Tensor> steps;
  for (int64_t l = 0; l < longest; ++l) {
    h = gs[l] * h + (1 - gs[l]) * xs[l];
    steps.push_back(h);
  }
  at::Tensor all = steps.empty() ? zero : at::cat({at::stack(steps).view({-1, channels}), zero});
  return {all.index_select(0, index_of(place, x.device())), h};
}

}  // namespace rattan::nn
