#include "rattan/nn/cache_rows.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>

namespace rattan::nn {

CacheRows::CacheRows(const State& state, const std::string& name) : rows_(state.t.at(name).flatten(0, 1)) {
  if (auto place = state.t.find(name + kExponents); place != state.t.end())
    cached_ = {rows_, place->second.flatten(0, 1)};
}

void CacheRows::write(const at::Tensor& x, const at::Tensor& from, const at::Tensor& to) const {
  if (in_8_bits()) return ops::cache_store(cached_, x, from, to);
  at::Tensor rows = rows_;
  rows.index_copy_(0, to, from.defined() ? x.index_select(0, from) : x);
}

at::Tensor CacheRows::read(const at::Tensor& rows, at::ScalarType dtype) const {
  return in_8_bits() ? ops::cache_load(cached_, rows, dtype) : rows_.index_select(0, rows);
}

at::Tensor CacheRows::all(at::ScalarType dtype) const {
  if (!in_8_bits()) return rows_;
  return read(at::arange(rows_.size(0), rows_.options().dtype(at::kLong)), dtype);
}

at::Tensor CacheRows::seen(const at::Tensor& x) const { return in_8_bits() ? ops::cache_round(x) : x; }

}  // namespace rattan::nn
