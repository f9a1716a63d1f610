// RAT as tensor algebra: the form for float64, for exchanged attention cores and for second derivatives.
#include <ATen/TensorOperators.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/zeros.h>

#include "rattan/kernels/rat.h"
#include "rattan/nn/core.h"
#include "rattan/nn/mixers/rat.h"
#include "rattan/nn/rope.h"
#include "rattan/nn/scan_reference.h"
#include "rattan/ops/ops.h"

namespace rattan::nn {
namespace rat_compose_file {

// The chunk table read back on the host, and what tensor algebra needs of it as index tensors.
struct Plan {
  std::vector<ScanRun> runs;
  at::Tensor slots, positions;    // int64 [chunks], int32 [chunks]
  at::Tensor to_chunks, to_rows;  // int64: chunks that leave their state, and where
  MaskSpec mask;                  // ends visible to each token
  at::Tensor token_positions;     // int32 [N]
};

Plan plan_of(const RatChunks& chunks, int64_t tokens) {
  const at::Tensor host = chunks.table.cpu();
  const auto* table = static_cast<const kernels::RatChunk*>(host.data_ptr());
  std::vector<int32_t> slots, positions, to_chunks, to_rows, begin(tokens, 0), end(tokens, 0), where(tokens, 0);
  Plan plan;
  for (int32_t j = 0; j < host.size(0); ++j) {
    const kernels::RatChunk& c = table[j];
    plan.runs.push_back({c.begin, c.end, c.from});
    slots.push_back(c.slot);
    positions.push_back(c.position);
    if (c.to >= 0) to_chunks.push_back(j), to_rows.push_back(c.to);
    for (int32_t t = c.begin; t < c.end; ++t) begin[t] = c.first, end[t] = c.slot, where[t] = c.position;
  }
  const at::Device device = chunks.table.device();
  auto column = [&](const std::vector<int32_t>& values) { return int_table(values, 1, device).view({-1}); };
  plan.slots = column(slots).to(at::kLong), plan.positions = column(positions);
  plan.to_chunks = column(to_chunks).to(at::kLong), plan.to_rows = column(to_rows).to(at::kLong);
  plan.mask = {Visible::causal, -1, -1, column(begin), column(end)};
  plan.token_positions = column(where);
  return plan;
}

// The carried value padded to [rows, ends, ...], or zeros.
at::Tensor grown(const at::Tensor& carried, at::IntArrayRef shape, const at::Tensor& like) {
  at::Tensor out = at::zeros(shape, like.options());
  if (!carried.defined()) return out;
  if (carried.sizes() == shape) return carried.to(like.scalar_type());
  return out.slice_scatter(carried.to(like.scalar_type()), 1, 0, carried.size(1));
}

}  // namespace rat_compose_file

std::pair<at::Tensor, Rat::Memory> Rat::compose(const at::Tensor& proj, const RatChunks& chunks, const Memory& before,
                                                Call& call, bool round_ends) const {
  using namespace rat_compose_file;
  const int64_t n = proj.size(0), heads = options_.n_heads, group_width = options_.n_groups * dim_;
  const auto wide = proj.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const Plan plan = plan_of(chunks, n);
  const auto parts = proj.split_with_sizes({d_model_, d_model_, d_model_, group_width, group_width}, 1);
  const at::Tensor z = at::sigmoid(parts[0].to(wide)), g = at::sigmoid(parts[2].to(wide) + gate_bias_(wide));
  const int64_t tiles = heads / options_.n_groups;  // head h reads group h mod G: the groups tiled, not repeated
  const at::Tensor q = parts[3].to(wide).repeat({1, tiles}).view({n, heads, dim_});
  const at::Tensor k = parts[4].to(wide).repeat({1, tiles});

  const at::Tensor first_k = before.running_k.defined() ? before.running_k.flatten(1) : at::Tensor();
  const at::Tensor first_v = before.running_v.defined() ? before.running_v.flatten(1) : at::Tensor();
  const ScanResult keys = scan_reference(k, g, plan.runs, first_k);
  const ScanResult values = scan_reference(parts[1].to(wide), g, plan.runs, first_v);
  const at::Tensor local_k = keys.h.view({n, heads, dim_}), local_v = values.h.view({n, heads, dim_});

  at::Tensor end_k = keys.last.view({-1, heads, dim_}), rotated_q = q;
  const at::Tensor last_v = values.last.view({-1, heads, dim_});
  if (options_.rope) {
    end_k = rope(end_k, plan.positions, chunks.positions, options_.rope_base);
    rotated_q = rope(q, plan.token_positions, chunks.positions, options_.rope_base);
  }
  at::Tensor end_v = last_v;
  if (round_ends) {
    // A kernel rounds what it stores in proj's type.
    auto rounded = [&](const at::Tensor& x) { return ops::cache_round(x.to(proj.scalar_type())).to(wide); };
    end_k = rounded(end_k), end_v = rounded(end_v);
  }
  const std::vector<int64_t> shape = {chunks.rows, chunks.ends, heads, dim_};
  const at::Tensor ends_k = grown(before.ends_k, shape, end_k).flatten(0, 1).index_copy(0, plan.slots, end_k);
  const at::Tensor ends_v = grown(before.ends_v, shape, end_v).flatten(0, 1).index_copy(0, plan.slots, end_v);

  const double scale = 1 / std::sqrt(static_cast<double>(dim_));
  const AttnOut inter = core_of(call).attend({.q = rotated_q,
                                              .kv = {ends_k, ends_v},
                                              .mask = plan.mask,
                                              .scale = scale,
                                              .bias = {},
                                              .extending = call.carry == nullptr},
                                             call);
  const at::Tensor local = (q * local_k).sum(-1) * scale;
  const at::Tensor top = at::maximum(inter.lse, local).detach();
  const at::Tensor w_inter = (inter.lse - top).exp().unsqueeze(-1), w_local = (local - top).exp().unsqueeze(-1);
  at::Tensor y = (w_inter * inter.o.to(wide) + w_local * local_v) / (w_inter + w_local);
  if (call.layout.has_padding()) y = y * call.layout.valid().view({n, 1, 1}).to(wide);

  const std::vector<int64_t> state_shape = {chunks.rows, heads, dim_};
  auto left = [&](const at::Tensor& old, const at::Tensor& last) {
    const at::Tensor base = old.defined() ? old.to(wide) : at::zeros(state_shape, last.options());
    return base.index_copy(0, plan.to_rows, last.index_select(0, plan.to_chunks));
  };
  Memory after{ends_k.view(shape), ends_v.view(shape), left(before.running_k, keys.last.view({-1, heads, dim_})),
               left(before.running_v, last_v)};
  return {(z * y.flatten(1)).to(proj.scalar_type()), after};
}

}  // namespace rattan::nn
