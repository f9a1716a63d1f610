// Small inputs for each operator, with one field to spoil at a time.
#pragma once
#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>

#include <vector>

#include "rattan/ops/ops.h"

namespace rattan::ops_test {

inline at::Tensor ints(std::vector<int32_t> values, const std::vector<int64_t>& shape) {
  return at::from_blob(values.data(), shape, at::kInt).clone();
}

// Two sequences of 8 tokens in chunks of 4, two heads of 4 in one group.
struct RatInputs {
  int64_t heads = 2, groups = 1, chunk = 4, rows = 2, ends = 2;
  at::Tensor proj = at::randn({16, 3 * 8 + 2 * 4}), gate_bias = at::randn({8});
  at::Tensor table =
      ints({0, 4, 0, 0, 0, -1, -1, 4, 8, 0, 1, 1, -1, 0, 8, 12, 2, 2, 0, -1, -1, 12, 16, 2, 3, 1, -1, 1}, {4, 7});
  at::Tensor cos = at::randn({2, 2}), sin = at::randn({2, 2});
  ops::RatCarry state = {at::randn({2, 2, 2, 4}), at::randn({2, 2, 2, 4}), at::randn({2, 2, 4}), at::randn({2, 2, 4})};

  ops::RatResult run() const {
    return ops::rat(proj, gate_bias, table, cos, sin, heads, groups, chunk, rows, ends, std::nullopt);
  }
  ops::RatResult run_carried() const {
    return ops::rat(proj, gate_bias, table, cos, sin, heads, groups, chunk, rows, ends, state);
  }
  at::Tensor extend() { return ops::rat_extend(proj, gate_bias, table, cos, sin, heads, groups, chunk, state); }
};

struct AttentionInputs {
  at::Tensor q = at::randn({3, 4, 8}), k = at::randn({5, 2, 8}), v = at::randn({5, 2, 8});
  at::Tensor begin = ints({0, 0, 1}, {3}), end = ints({1, 3, 5}, {3});
  at::Tensor run() const { return std::get<0>(ops::attention(q, k, v, begin, end, 0.5)); }
};

struct ScanInputs {
  int64_t rows = 2;
  at::Tensor x = at::randn({6, 8}), gate = at::randn({6, 8}), gate_bias = at::randn({8});
  at::Tensor table = ints({0, 3, 0, 0, 3, 6, 1, 1}, {2, 4}), initial = at::randn({2, 8});
  at::Tensor run() const { return std::get<0>(ops::gated_scan(x, gate, gate_bias, table, initial, rows)); }
};

struct RopeInputs {
  at::Tensor x = at::randn({3, 2, 8}), position = ints({0, 4, 2}, {3}), cos = at::randn({5, 4}),
             sin = at::randn({5, 4});
  at::Tensor run() const { return ops::rope(x, position, cos, sin); }
};

struct CrossEntropyInputs {
  at::Tensor h = at::randn({4, 8}), w = at::randn({16, 8}), target = at::zeros({4}, at::kLong), weight = at::ones({4});
  at::Tensor run() const { return ops::linear_cross_entropy(h, w, target, weight); }
};

}  // namespace rattan::ops_test
