#include "rattan/nn/mixers/softmax_attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>

#include "rattan/base/error.h"
#include "rattan/nn/cache_rows.h"
#include "rattan/nn/mixers/kv_plan.h"
#include "rattan/nn/rope.h"

namespace rattan::nn {
namespace softmax_attention_file {

int64_t kv_heads(const AttentionSettings& s) { return s.n_kv_heads > 0 ? s.n_kv_heads : s.n_heads; }

// The carried cache grown to [rows, entries, ...].
at::Tensor grown(const at::Tensor& carried, at::IntArrayRef shape, const at::Tensor& like) {
  at::Tensor out = at::zeros(shape, like.options());
  return carried.defined() ? out.slice_scatter(carried, 1, 0, carried.size(1)) : out;
}

at::Tensor or_undefined(const State& state, const char* name) {
  auto place = state.t.find(name);
  return place == state.t.end() ? at::Tensor() : place->second;
}

at::Tensor seen(const RingPlan& plan, const at::Tensor& ring, const at::Tensor& fresh) {
  return at::cat({ring.index_select(0, plan.old), fresh}).index_select(0, plan.keys);
}
at::Tensor seen(const RingPlan& plan, const CacheRows& held, const at::Tensor& fresh) {
  return at::cat({held.read(plan.old, fresh.scalar_type()), held.seen(fresh)}).index_select(0, plan.keys);
}

}  // namespace softmax_attention_file

void AttentionSettings::fields(Fields& f) {
  f("n_heads", n_heads, "attention heads H; d_model / H channels each", at_least(1));
  f("n_kv_heads", n_kv_heads, "key/value heads, shared by H / n_kv_heads query heads each; 0: n_heads", at_least(0));
  f("rope", rope, "rotate queries and keys by token position");
  f("rope_base", rope_base, "base of the rotation's wavelengths", above(1));
}

std::unique_ptr<Mixer> AttentionSettings::make(const char* type, const MixerContext& context) const {
  require(context.d_model % n_heads == 0, "{}: d_model {} is not a multiple of n_heads {}", type, context.d_model,
          n_heads);
  require(n_heads % softmax_attention_file::kv_heads(*this) == 0, "{}: n_heads {} is not a multiple of n_kv_heads {}",
          type, n_heads, n_kv_heads);
  require(!rope || context.d_model / n_heads % 2 == 0, "{}: rotation needs an even head size, got {}", type,
          context.d_model / n_heads);
  return std::make_unique<SoftmaxAttention>(*this, context);
}

SoftmaxAttention::SoftmaxAttention(const AttentionSettings& settings, const MixerContext& context)
    : settings_(settings),
      d_model_(context.d_model),
      dim_(context.d_model / settings.n_heads),
      in_proj_(d_model_, d_model_ + 2 * softmax_attention_file::kv_heads(settings) * dim_, context.init_std),
      out_proj_(d_model_, d_model_, context.init_std) {
  settings_.n_kv_heads = softmax_attention_file::kv_heads(settings);
  child("in_proj", in_proj_);
  child("out_proj", out_proj_);
}

SoftmaxAttention::Heads SoftmaxAttention::project(const at::Tensor& x, const Call& call) const {
  const Layout& layout = call.layout;
  const int64_t kv_width = settings_.n_kv_heads * dim_;
  const at::Tensor proj = in_proj_.enter(x, call).view({-1, d_model_ + 2 * kv_width});
  const auto parts = proj.split_with_sizes({kv_width, d_model_, kv_width}, 1);
  auto heads = [&](const at::Tensor& part) { return part.unflatten(1, {part.size(1) / dim_, dim_}); };
  Heads h{heads(parts[1]), heads(parts[2]), heads(parts[0])};
  if (settings_.rope) {
    const int64_t positions = layout.last_position() + 1;
    h.q = rope(h.q, layout.positions(), positions, settings_.rope_base);
    h.k = rope(h.k, layout.positions(), positions, settings_.rope_base);
  }
  return h;
}

at::Tensor SoftmaxAttention::attend(const at::Tensor& x, const at::Tensor& q, const KvView& kv, const MaskSpec& mask,
                                    bool extending, Call& call) const {
  const double scale = 1 / std::sqrt(static_cast<double>(dim_));
  const AttnOut out =
      core_of(call).attend({.q = q, .kv = kv, .mask = mask, .scale = scale, .bias = {}, .extending = extending}, call);
  return out_proj_.join(out.o.flatten(1), x, call);
}

at::Tensor SoftmaxAttention::forward(const at::Tensor& x, Call& call) {
  using softmax_attention_file::seen;
  const Heads h = project(x, call);
  if (!call.carry) return attend(x, h.q, {h.k, h.v}, call.layout.mask(settings_.window), false, call);
  const int64_t rows = std::max<int64_t>(1, call.layout.state_rows());
  const at::Tensor old_k = softmax_attention_file::or_undefined(*call.carry, "k");
  const at::Tensor old_v = softmax_attention_file::or_undefined(*call.carry, "v");
  const bool ring = settings_.window >= 0;
  int64_t entries = ring ? settings_.window + 1 : call.layout.last_position() + 1;
  if (old_k.defined()) entries = std::max(entries, old_k.size(1));
  const std::vector<int64_t> shape = {rows, entries, settings_.n_kv_heads, dim_};
  const at::Tensor k = softmax_attention_file::grown(old_k, shape, h.k).flatten(0, 1);
  const at::Tensor v = softmax_attention_file::grown(old_v, shape, h.v).flatten(0, 1);
  auto leave = [&](const at::Tensor& new_k, const at::Tensor& new_v) {
    call.carry->t = {{"k", new_k.view(shape)}, {"v", new_v.view(shape)}};
  };
  if (ring) {
    const RingPlan plan = ring_plan(call.layout, rows, entries);
    leave(k.index_copy(0, plan.slots, h.k.index_select(0, plan.tokens)),
          v.index_copy(0, plan.slots, h.v.index_select(0, plan.tokens)));
    return attend(x, h.q, {seen(plan, k, h.k), seen(plan, v, h.v)}, plan.mask, false, call);
  }
  const CachePlan plan = cache_plan(call.layout, rows, entries);
  const at::Tensor new_k = k.index_copy(0, plan.slots, h.k.index_select(0, plan.tokens));
  const at::Tensor new_v = v.index_copy(0, plan.slots, h.v.index_select(0, plan.tokens));
  leave(new_k, new_v);
  return attend(x, h.q, {new_k, new_v}, plan.mask, false, call);
}

at::Tensor SoftmaxAttention::extend(const at::Tensor& x, State& state, Call& call) {
  using softmax_attention_file::seen;
  const Heads h = project(x, call);
  if (state.t.empty()) fail("extend needs a state made from state_spec()");
  const int64_t rows = state.t.at("k").size(0), entries = state.t.at("k").size(1);
  const CacheRows k(state, "k"), v(state, "v");
  // A cache in 8 bits is not attended in place by many tokens: what they see of it is a ring that never closes.
  if ((settings_.window >= 0 || k.in_8_bits()) && !single_tokens(call.layout)) {
    if (settings_.window < 0)
      require(call.layout.last_position() < entries, "position {} does not fit a state of {} entries",
              call.layout.last_position(), entries);
    const RingPlan plan = ring_plan(call.layout, rows, entries);
    at::Tensor y = attend(x, h.q, {seen(plan, k, h.k), seen(plan, v, h.v)}, plan.mask, true, call);
    k.write(h.k, plan.tokens, plan.slots);
    v.write(h.v, plan.tokens, plan.slots);
    return y;
  }
  const CachePlan plan =
      settings_.window >= 0 ? ring_step_plan(call.layout, rows, entries) : cache_plan(call.layout, rows, entries);
  k.write(h.k, plan.tokens, plan.slots);
  v.write(h.v, plan.tokens, plan.slots);
  const auto type = h.q.scalar_type();
  if (!k.in_8_bits() || call.core || type == at::kDouble)
    return attend(x, h.q, {k.all(type), v.all(type)}, plan.mask, true, call);
  const double scale = 1 / std::sqrt(static_cast<double>(dim_));
  const at::Tensor o = ops::attention_cached(h.q, k.cached(), v.cached(), plan.mask.begin, plan.mask.end, scale);
  return out_proj_.join(o.flatten(1), x, call);
}

StateSpec SoftmaxAttention::state_spec() const {
  const bool ring = settings_.window >= 0;
  const std::vector<int64_t> shape = {settings_.n_kv_heads, dim_};
  StateSpec spec;
  for (const char* name : {"k", "v"})
    spec.fields.push_back({.name = name,
                           .shape = shape,
                           .every = ring ? 0 : 1,
                           .cap = ring ? settings_.window + 1 : 0,
                           .host_ok = true,
                           .rounds = true});
  spec.resume = ring ? 0 : 1;  // a ring has overwritten what a shorter prefix would need
  return spec;
}

double SoftmaxAttention::flops_per_token(int64_t tokens) const {
  const auto t = static_cast<double>(tokens);
  double keys = (t + 1) / 2;
  if (settings_.window >= 0 && settings_.window + 1 < tokens) {
    const auto w = static_cast<double>(settings_.window + 1);
    keys = (w * (w + 1) / 2 + (t - w) * w) / t;
  }
  return in_proj_.flops() + out_proj_.flops() + 4.0 * static_cast<double>(d_model_) * keys;
}

}  // namespace rattan::nn
