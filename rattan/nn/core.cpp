#include "rattan/nn/core.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/einsum.h>
#include <ATen/ops/logsumexp.h>

#include "rattan/ops/ops.h"

namespace rattan::nn {
namespace core_file {

class ReferenceCore : public AttentionCore {
 public:
  AttnOut attend(const AttnIn& in, Call&) override {
    const int64_t repeat = in.q.size(1) / in.kv.k.size(1);
    const auto stats = in.q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    at::Tensor k = in.kv.k.repeat_interleave(repeat, 1), v = in.kv.v.repeat_interleave(repeat, 1);
    at::Tensor scores = at::einsum("nhp,mhp->nhm", {in.q.to(stats), k.to(stats)}) * in.scale;
    if (in.bias.defined()) scores = scores + in.bias.transpose(0, 1);
    at::Tensor row = at::arange(k.size(0), in.mask.begin.options());
    at::Tensor seen = (row >= in.mask.begin.unsqueeze(1)).logical_and(row < in.mask.end.unsqueeze(1)).unsqueeze(1);
    at::Tensor blind = seen.logical_not();
    // A row that sees nothing has no softmax: its scores are made finite first, so that no NaN enters backward.
    at::Tensor nothing = blind.all(-1, true);
    scores = scores.masked_fill(blind.logical_and(nothing.logical_not()), -INFINITY);
    at::Tensor lse = at::logsumexp(scores, {-1});
    at::Tensor p = (scores - lse.unsqueeze(-1)).exp().masked_fill(blind, 0);
    at::Tensor o = at::einsum("nhm,mhp->nhp", {p, v.to(stats)}).to(in.q.scalar_type());
    return {o, lse.masked_fill(nothing.squeeze(-1), -INFINITY)};
  }
};

class DefaultCore : public AttentionCore {
 public:
  AttnOut attend(const AttnIn& in, Call& call) override {
    if (in.q.scalar_type() == at::kDouble || in.bias.defined()) return reference_core().attend(in, call);
    auto [o, lse] = ops::attention(in.q, in.kv.k, in.kv.v, in.mask.begin, in.mask.end, in.scale);
    return {o, lse};
  }
};

}  // namespace core_file

AttentionCore& default_core() {
  static core_file::DefaultCore core;
  return core;
}

AttentionCore& reference_core() {
  static core_file::ReferenceCore core;
  return core;
}

}  // namespace rattan::nn
