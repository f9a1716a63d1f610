#include "rattan/nn/mixers/rat.h"

#include <ATen/ops/empty.h>

#include <algorithm>

#include "rattan/base/error.h"
#include "rattan/base/parallel.h"
#include "rattan/nn/cache_rows.h"
#include "rattan/nn/mixers/registry.h"
#include "rattan/ops/ops.h"

namespace rattan::nn {

extern const MixerType rat_mixer;
const MixerType rat_mixer = {"rat", "gated recurrence inside chunks, attention across chunk ends",
                             [] { return std::unique_ptr<MixerOptions>(new RatOptions); }};

void RatOptions::fields(Fields& f) {
  f("n_heads", n_heads, "attention heads H; d_model / H channels each", at_least(1));
  f("n_groups", n_groups, "groups G that share queries and raw keys; head h uses group h mod G", at_least(1));
  f("chunk", chunk, "chunk length L; 1 is attention over gated keys, the whole length is an RNN", at_least(1));
  f("rope", rope, "rotate queries and chunk ends by their chunk index");
  f("rope_base", rope_base, "base of the rotation's wavelengths", above(1));
}

std::unique_ptr<Mixer> RatOptions::make(const MixerContext& context) const {
  require(context.d_model % n_heads == 0, "rat: d_model {} is not a multiple of n_heads {}", context.d_model, n_heads);
  require(n_heads % n_groups == 0, "rat: n_heads {} is not a multiple of n_groups {}", n_heads, n_groups);
  require(!rope || context.d_model / n_heads % 2 == 0, "rat: rotation needs an even head size, got {}",
          context.d_model / n_heads);
  return std::make_unique<Rat>(*this, context);
}

// With L = 1 there is no memory to initialize a gate for: -3 lets 95 % of the token in.
Rat::Rat(const RatOptions& options, const MixerContext& context)
    : options_(options),
      d_model_(context.d_model),
      dim_(context.d_model / options.n_heads),
      in_proj_(d_model_, 3 * d_model_ + 2 * options.n_groups * dim_, context.init_std),
      out_proj_(d_model_, d_model_, context.init_std),
      gate_bias_(param(
          "gate_bias", {d_model_},
          options.chunk == 1 ? Init::constant(-3) : Init::log_uniform(1, std::max<double>(1, options.chunk - 1.0)))) {
  child("in_proj", in_proj_);
  child("out_proj", out_proj_);
}

Rat::Memory Rat::memory_of(const State& state) {
  if (state.t.empty()) return {};
  return {state.t.at("ends_k"), state.t.at("ends_v"), state.t.at("running_k"), state.t.at("running_v")};
}

bool Rat::fused(const at::Tensor& proj, const Call& call) const {
  return proj.scalar_type() != at::kDouble && call.core == nullptr;
}

std::pair<at::Tensor, at::Tensor> Rat::tables(const RatChunks& chunks, at::Device device) const {
  if (!options_.rope) return {};
  auto [cos, sin] = ops::rope_tables(chunks.positions, dim_, options_.rope_base, device);
  return {cos, sin};
}

at::Tensor Rat::forward(const at::Tensor& x, Call& call) {
  const at::Tensor proj = in_proj_(x).view({-1, 3 * d_model_ + 2 * options_.n_groups * dim_});
  const Memory before = call.carry ? memory_of(*call.carry) : Memory{};
  int64_t ends = call.carry ? rat_ends(call.layout, options_.chunk) : 0;
  if (before.ends_k.defined()) ends = std::max(ends, before.ends_k.size(1));
  RatChunks chunks = rat_chunks(call.layout, options_.chunk, ends);
  if (before.ends_k.defined()) chunks.rows = std::max(chunks.rows, before.ends_k.size(0));
  at::Tensor mixed;
  Memory after;
  if (fused(proj, call)) {
    auto [cos, sin] = tables(chunks, proj.device());
    std::optional<ops::RatCarry> carry;
    if (before.ends_k.defined()) carry = {before.ends_k, before.ends_v, before.running_k, before.running_v};
    auto r = ops::rat(proj, gate_bias_(at::kFloat), chunks.table, cos, sin, options_.n_heads, options_.n_groups,
                      options_.chunk, chunks.rows, chunks.ends, carry);
    mixed = r.out;
    after = {r.ends_k, r.ends_v, r.running_k, r.running_v};
  } else {
    std::tie(mixed, after) = compose(proj, chunks, before, call);
  }
  if (call.carry)
    call.carry->t = {{"ends_k", after.ends_k},
                     {"ends_v", after.ends_v},
                     {"running_k", after.running_k},
                     {"running_v", after.running_v}};
  return out_proj_.join(mixed, x, call);
}

at::Tensor Rat::extend(const at::Tensor& x, State& state, Call& call) {
  Memory memory = memory_of(state);
  if (!memory.ends_k.defined()) fail("extend needs a state made from state_spec()");
  if (memory.ends_k.scalar_type() == at::kChar) return out_proj_.join(extend_in_8_bits(x, state, call), x, call);
  // Tables first: the launch before a step's mixing must be the projection (ops::rat_extend).
  RatChunks chunks = rat_chunks(call.layout, options_.chunk, memory.ends_k.size(1));
  chunks.rows = memory.ends_k.size(0);
  auto [cos, sin] = tables(chunks, x.device());
  const at::Tensor proj = in_proj_.enter(x, call).view({-1, 3 * d_model_ + 2 * options_.n_groups * dim_});
  if (fused(proj, call)) {
    ops::RatCarry storage{memory.ends_k, memory.ends_v, memory.running_k, memory.running_v};
    const at::Tensor mixed = ops::rat_extend(proj, gate_bias_(at::kFloat), chunks.table, cos, sin, options_.n_heads,
                                             options_.n_groups, options_.chunk, storage, chunks.step);
    return out_proj_.join(mixed, x, call);
  }
  auto [mixed, after] = compose(proj, chunks, memory, call);
  memory.ends_k.copy_(after.ends_k), memory.ends_v.copy_(after.ends_v);
  memory.running_k.copy_(after.running_k), memory.running_v.copy_(after.running_v);
  return out_proj_.join(mixed, x, call);
}

// A step reads the ends where they are. Otherwise the ends that are seen are read to a buffer of the computing type,
// which holds them exactly; new ones are rounded there before they are seen, then written.
at::Tensor Rat::extend_in_8_bits(const at::Tensor& x, State& state, Call& call) const {
  const CacheRows held_k(state, "ends_k"), held_v(state, "ends_v");
  Memory memory = memory_of(state);
  const int64_t rows = memory.ends_k.size(0), ends = memory.ends_k.size(1), heads = options_.n_heads;
  // Tables first, as in extend.
  const RatChunks chunks = rat_chunks(call.layout, options_.chunk, ends);
  auto [cos, sin] = tables(chunks, x.device());
  const at::Tensor proj = in_proj_.enter(x, call).view({-1, 3 * d_model_ + 2 * options_.n_groups * dim_});
  if (chunks.step && fused(proj, call))
    return ops::rat_step_cached(proj, gate_bias_(at::kFloat), chunks.table, cos, sin, heads, options_.n_groups,
                                {memory.ends_k, state.t.at("ends_k_exponents")},
                                {memory.ends_v, state.t.at("ends_v_exponents")}, memory.running_k, memory.running_v);
  const RatSeenEnds seen = rat_seen_ends(call.layout, options_.chunk, rows, ends);
  const auto type = proj.scalar_type();
  auto buffer = [&](const CacheRows& held) {
    at::Tensor out = at::empty({rows, seen.chunks.ends, heads, dim_}, proj.options());
    out.flatten(0, 1).index_copy_(0, seen.old_scratch, held.read(seen.old_state, type));
    return out;
  };
  Memory scratch{buffer(held_k), buffer(held_v), memory.running_k, memory.running_v};
  at::Tensor mixed;
  if (fused(proj, call)) {
    ops::RatCarry storage{scratch.ends_k, scratch.ends_v, scratch.running_k, scratch.running_v};
    mixed = ops::rat_extend(proj, gate_bias_(at::kFloat), seen.chunks.table, cos, sin, heads, options_.n_groups,
                            options_.chunk, storage, false, true);
  } else {
    Memory after;
    std::tie(mixed, after) = compose(proj, seen.chunks, scratch, call, true);
    scratch = after;
    memory.running_k.copy_(after.running_k), memory.running_v.copy_(after.running_v);
  }
  held_k.write(scratch.ends_k.flatten(0, 1), seen.new_scratch, seen.new_state);
  held_v.write(scratch.ends_v.flatten(0, 1), seen.new_scratch, seen.new_state);
  return mixed;
}

StateSpec Rat::state_spec() const {
  const std::vector<int64_t> shape = {options_.n_heads, dim_};
  StateSpec spec;
  spec.fields = {{.name = "ends_k", .shape = shape, .every = options_.chunk, .host_ok = true, .rounds = true},
                 {.name = "ends_v", .shape = shape, .every = options_.chunk, .host_ok = true, .rounds = true},
                 {.name = "running_k", .dtype = at::kFloat, .shape = shape},
                 {.name = "running_v", .dtype = at::kFloat, .shape = shape}};
  spec.resume = options_.chunk;
  return spec;
}

double Rat::flops_per_token(int64_t tokens) const {
  const auto chunks = static_cast<double>(ceil_div(tokens, options_.chunk));
  return in_proj_.flops() + out_proj_.flops() + 4.0 * static_cast<double>(d_model_) * ((chunks - 1) / 2 + 1);
}

}  // namespace rattan::nn
