// Keys or values that a state holds, as flat rows [rows * entries, H, p], whichever way it holds them: in the computing
// type or in 8 bits (StateSpec::in_8_bits). What a state in 8 bits will hold is what its own batch attends to, too
// (`seen`), so that a token sees the same keys however its sequence was cut into calls.
#pragma once
#include "rattan/nn/state.h"
#include "rattan/ops/ops.h"

namespace rattan::nn {

class CacheRows {
 public:
  CacheRows(const State& state, const std::string& name);

  bool in_8_bits() const { return cached_.exponents.defined(); }
  const ops::Cached8& cached() const { return cached_; }  // flat, if in 8 bits

  // x [N, H, p]: its rows `from` (undefined: all) become the rows `to`; int64.
  void write(const at::Tensor& x, const at::Tensor& from, const at::Tensor& to) const;
  at::Tensor read(const at::Tensor& rows, at::ScalarType dtype) const;  // int64 [n] -> [n, H, p]
  at::Tensor all(at::ScalarType dtype) const;                           // the memory itself unless in 8 bits
  at::Tensor seen(const at::Tensor& x) const;                           // x [N, H, p] as it will be read

 private:
  at::Tensor rows_;
  ops::Cached8 cached_;
};

}  // namespace rattan::nn
