#include "rattan/kernels/rat.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <fmt/ranges.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <utility>

#include "rattan/ops/kept.h"
#include "rattan/ops/launch.h"
#include "rattan/ops/ops.h"

namespace rattan::ops {
namespace rat_file {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t chunk_columns = sizeof(kernels::RatChunk) / sizeof(int32_t);

kernels::RatShape shape_of(const Tensor& proj, const Tensor& gate_bias, const Tensor& table, int64_t heads,
                           int64_t groups, int64_t chunk, int64_t ends) {
  kernels::RatShape s;
  s.tokens = proj.size(0), s.heads = heads, s.groups = groups, s.dim = gate_bias.numel() / heads;
  s.chunks = table.size(0), s.ends = ends, s.max_chunk = chunk;
  require(heads > 0 && groups > 0 && heads % groups == 0 && gate_bias.numel() % heads == 0,
          "rattan::rat: {} gate biases, {} heads and {} groups do not divide", gate_bias.numel(), heads, groups);
  require(proj.dim() == 2 && proj.size(1) == s.width(),
          "rattan::rat: proj must be [N, 3D + 2Gp] = [N, {}] for {} heads of {} and {} groups, got [{}]", s.width(),
          heads, s.dim, groups, fmt::join(proj.sizes(), ", "));
  require(
      table.dim() == 2 && table.size(1) == chunk_columns && table.scalar_type() == at::kInt && table.is_contiguous(),
      "rattan::rat: the chunk table must be contiguous int32 [chunks, {}]", chunk_columns);
  require(gate_bias.scalar_type() == at::kFloat && gate_bias.is_contiguous(),
          "rattan::rat: gate_bias must be contiguous float32");
  return s;
}

void check_tables(const OptionalTensor& cos, const OptionalTensor& sin, const kernels::RatShape& s) {
  require(cos.has_value() == sin.has_value(), "rattan::rat: cos and sin come together");
  if (!cos) return;
  for (const Tensor* t : {&*cos, &*sin})
    require(t->dim() == 2 && t->size(0) == cos->size(0) && 2 * t->size(1) == s.dim && t->scalar_type() == at::kFloat &&
                t->is_contiguous(),
            "rattan::rat: cos and sin must be contiguous float32 [positions, {}], got [{}]", s.dim / 2,
            fmt::join(t->sizes(), ", "));
}

// Ends [R, E, H, p] in proj's type and running states fp32 [R, H, p], all or none.
void check_carry(const OptionalTensor& ends_k, const OptionalTensor& ends_v, const OptionalTensor& running_k,
                 const OptionalTensor& running_v, at::ScalarType dtype, int64_t heads, int64_t dim) {
  require(ends_k.has_value() == ends_v.has_value() && ends_k.has_value() == running_k.has_value() &&
              ends_k.has_value() == running_v.has_value(),
          "rattan::rat: ends_k, ends_v, running_k and running_v come together");
  if (!ends_k) return;
  const int64_t rows = ends_k->size(0);
  for (const Tensor* t : {&*ends_k, &*ends_v})
    require(t->dim() == 4 && t->sizes() == ends_k->sizes() && t->size(2) == heads && t->size(3) == dim &&
                t->scalar_type() == dtype,
            "rattan::rat: ends must be [R, E, {}, {}] in the type of proj, got [{}]", heads, dim,
            fmt::join(t->sizes(), ", "));
  for (const Tensor* t : {&*running_k, &*running_v})
    require(t->sizes() == at::IntArrayRef({rows, heads, dim}) && t->scalar_type() == at::kFloat && t->stride(2) == 1,
            "rattan::rat: running states must be float32 [{}, {}, {}], got [{}]", rows, heads, dim,
            fmt::join(t->sizes(), ", "));
}

// A table made by hand must not make a kernel read or write elsewhere. Device tables are the caller's word.
void check_table(const Tensor& table, const kernels::RatShape& s, int64_t positions, int64_t running, int64_t final) {
  if (!table.is_cpu()) return;
  const auto* c = static_cast<const kernels::RatChunk*>(table.data_ptr());
  for (int64_t i = 0; i < table.size(0); ++i)
    require(c[i].begin >= 0 && c[i].end > c[i].begin && c[i].end <= s.tokens && c[i].end - c[i].begin <= s.max_chunk &&
                c[i].first >= 0 && c[i].first <= c[i].slot && c[i].slot < s.ends && c[i].position >= 0 &&
                (positions == 0 || c[i].position < positions) && c[i].from < running && c[i].to < final,
            "rattan::rat: chunk {} (tokens {} to {}, ends {} to {}, position {}, from {}, to {}) does not fit {} "
            "tokens, chunks of {}, {} ends, {} positions and {} states",
            i, c[i].begin, c[i].end, c[i].first, c[i].slot, c[i].position, c[i].from, c[i].to, s.tokens, s.max_chunk,
            s.ends, positions, final);
}

Tensor flat(const Tensor& state) { return state.defined() ? state.flatten(0, 1) : state; }

// What forward and backward share of their arguments.
template <class Args>
void fill_inputs(Args& a, const Tensor& proj, const Tensor& gate_bias, const Tensor& table, const OptionalTensor& cos,
                 const OptionalTensor& sin, const OptionalTensor& running_k, const OptionalTensor& running_v) {
  a.table = static_cast<const kernels::RatChunk*>(table.data_ptr());
  a.gate_bias = pointer<const float>(gate_bias);
  a.cos = pointer<const float>(cos), a.sin = pointer<const float>(sin);
  a.running_k = heads_ref<const float>(value_or_undefined(running_k));
  a.running_v = heads_ref<const float>(value_or_undefined(running_v));
  using Row = std::remove_reference_t<decltype(*a.proj.data)>;
  a.proj = rows_ref<Row>(proj);
}

struct Outputs {
  Tensor out, lse;
};

// Where ends are written and read, [R, E, H, ...]. With exponents they are in 8 bits.
struct Ends {
  Tensor k, v, exponents_k = {}, exponents_v = {};
  bool round = false;
};

// ends and final states are written into the given storage.
Outputs run_forward(const Tensor& proj_in, const Tensor& gate_bias, const Tensor& table, const OptionalTensor& cos,
                    const OptionalTensor& sin, int64_t heads, int64_t groups, int64_t chunk, const Ends& ends,
                    const OptionalTensor& running_k, const OptionalTensor& running_v, const Tensor& final_k,
                    const Tensor& final_v, bool for_backward, bool step) {
  const Tensor proj = dense_last(proj_in), flat_k = flat(ends.k), flat_v = flat(ends.v);
  const auto shape = shape_of(proj, gate_bias, table, heads, groups, chunk, flat_k.size(0));
  check_tables(cos, sin, shape);
  check_table(table, shape, cos ? cos->size(0) : 0, running_k ? running_k->size(0) : 0, final_k.size(0));
  Outputs r;
  r.out = at::empty({shape.tokens, heads * shape.dim}, proj.options());
  if (for_backward) {
    r.lse = at::empty({shape.tokens, heads}, proj.options().dtype(at::kFloat));
  }
  with_type("rat", proj.scalar_type(), [&]<class T>() {
    kernels::RatForward<T> a;
    a.shape = shape;
    fill_inputs(a, proj, gate_bias, table, cos, sin, running_k, running_v);
    if (ends.exponents_k.defined()) {
      a.cached_k = {heads_ref<int8_t>(flat_k), heads_ref<uint8_t>(flat(ends.exponents_k))};
      a.cached_v = {heads_ref<int8_t>(flat_v), heads_ref<uint8_t>(flat(ends.exponents_v))};
    } else {
      a.ends_k = heads_ref<T>(flat_k), a.ends_v = heads_ref<T>(flat_v);
      a.round_ends = ends.round;
    }
    a.final_k = heads_ref<float>(final_k), a.final_v = heads_ref<float>(final_v);
    a.out = rows_ref<T>(r.out), a.lse = pointer<float>(r.lse);
    a.step = step;
    RATTAN_LAUNCH_SCRATCH("rat", proj, rat_forward, rat_forward_scratch_bytes(a), a);
  });
  return r;
}

using ForwardResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

ForwardResult forward(const Tensor& proj, const Tensor& gate_bias, const Tensor& table, const OptionalTensor& cos,
                      const OptionalTensor& sin, int64_t heads, int64_t groups, int64_t chunk, int64_t rows,
                      int64_t ends, const OptionalTensor& ends_k, const OptionalTensor& ends_v,
                      const OptionalTensor& running_k, const OptionalTensor& running_v) {
  require(heads > 0 && rows > 0 && ends > 0, "rattan::rat: heads, rows and ends must be at least 1, got {}, {} and {}",
          heads, rows, ends);
  const int64_t dim = gate_bias.numel() / heads;
  check_carry(ends_k, ends_v, running_k, running_v, proj.scalar_type(), heads, dim);
  if (ends_k)
    require(ends_k->size(0) == rows && ends_k->size(1) <= ends,
            "rattan::rat: a carried state of {} x {} ends does not fit {} x {}", ends_k->size(0), ends_k->size(1), rows,
            ends);
  // Without carried state every end that is read was written before; with it, rows may be left over.
  auto fresh = [&] {
    return ends_k ? at::zeros({rows, ends, heads, dim}, proj.options())
                  : at::empty({rows, ends, heads, dim}, proj.options());
  };
  Tensor new_k = fresh(), new_v = fresh();
  Tensor final_k = at::zeros({rows, heads, dim}, proj.options().dtype(at::kFloat)), final_v = at::zeros_like(final_k);
  if (ends_k) {
    const int64_t old = ends_k->size(1);
    new_k.narrow(1, 0, old).copy_(*ends_k), new_v.narrow(1, 0, old).copy_(*ends_v);
    final_k.copy_(*running_k), final_v.copy_(*running_v);
  }
  auto r = run_forward(proj, gate_bias, table, cos, sin, heads, groups, chunk, {.k = new_k, .v = new_v}, running_k,
                       running_v, final_k, final_v, true, false);
  return {r.out, r.lse, new_k, new_v, final_k, final_v};
}

using BackwardResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

BackwardResult backward(const Tensor& proj_in, const Tensor& gate_bias, const Tensor& table, const OptionalTensor& cos,
                        const OptionalTensor& sin, int64_t heads, int64_t groups, int64_t chunk, const Tensor& ends_k,
                        const Tensor& ends_v, const OptionalTensor& running_k, const OptionalTensor& running_v,
                        const Tensor& out, const Tensor& lse, const Tensor& d_out_in, const OptionalTensor& d_ends_k,
                        const OptionalTensor& d_ends_v, const OptionalTensor& d_final_k,
                        const OptionalTensor& d_final_v) {
  const Tensor proj = dense_last(proj_in), d_out = dense_last(d_out_in), flat_k = flat(ends_k), flat_v = flat(ends_v);
  const auto shape = shape_of(proj, gate_bias, table, heads, groups, chunk, flat_k.size(0));
  auto fp32 = proj.options().dtype(at::kFloat);
  auto gradient = [&](const OptionalTensor& given) {
    return given ? given->to(at::kFloat).clone(at::MemoryFormat::Contiguous) : at::zeros(ends_k.sizes(), fp32);
  };
  Tensor total_k = gradient(d_ends_k), total_v = gradient(d_ends_v);
  Tensor d_proj = at::empty({shape.tokens, shape.width()}, proj.options());
  Tensor d_bias = at::empty_like(gate_bias);
  Tensor d_running_k, d_running_v;
  if (running_k) d_running_k = at::zeros_like(*running_k), d_running_v = at::zeros_like(*running_v);
  const Tensor top_k = value_or_undefined(d_final_k).defined() ? d_final_k->contiguous() : Tensor();
  const Tensor top_v = value_or_undefined(d_final_v).defined() ? d_final_v->contiguous() : Tensor();
  with_type("rat", proj.scalar_type(), [&]<class T>() {
    kernels::RatBackward<T> a;
    a.shape = shape;
    fill_inputs(a, proj, gate_bias, table, cos, sin, running_k, running_v);
    a.ends_k = heads_ref<const T>(flat_k), a.ends_v = heads_ref<const T>(flat_v);
    a.out = rows_ref<const T>(out), a.lse = pointer<const float>(lse), a.d_out = rows_ref<const T>(d_out);
    a.d_final_k = heads_ref<const float>(top_k), a.d_final_v = heads_ref<const float>(top_v);
    a.d_proj = rows_ref<T>(d_proj), a.d_gate_bias = pointer<float>(d_bias);
    a.d_ends_k = heads_ref<float>(flat(total_k)), a.d_ends_v = heads_ref<float>(flat(total_v));
    a.d_running_k = heads_ref<float>(d_running_k), a.d_running_v = heads_ref<float>(d_running_v);
    RATTAN_LAUNCH_SCRATCH("rat", proj, rat_backward, rat_backward_scratch_bytes(shape), a);
  });
  return {d_proj, d_bias, total_k, total_v, d_running_k, d_running_v};
}

Tensor extend(const Tensor& proj, const Tensor& gate_bias, const Tensor& table, const OptionalTensor& cos,
              const OptionalTensor& sin, int64_t heads, int64_t groups, int64_t chunk, Tensor ends_k, Tensor ends_v,
              Tensor running_k, Tensor running_v, bool step, bool round_ends) {
  require(heads > 0, "rattan::rat: heads must be at least 1, got {}", heads);
  check_carry(ends_k, ends_v, running_k, running_v, proj.scalar_type(), heads, gate_bias.numel() / heads);
  require(!step || table.size(0) == proj.size(0), "rattan::rat: a step of {} tokens needs as many chunks, not {}",
          proj.size(0), table.size(0));
  // They are written in place: a copy would lose what is written.
  require(ends_k.is_contiguous() && ends_v.is_contiguous(), "rattan::rat: the ends of a state must be contiguous");
  return run_forward(proj, gate_bias, table, cos, sin, heads, groups, chunk,
                     {.k = ends_k, .v = ends_v, .round = round_ends}, running_k, running_v, running_k, running_v, false,
                     step)
      .out;
}

Tensor step_cached(const Tensor& proj, const Tensor& gate_bias, const Tensor& table, const OptionalTensor& cos,
                   const OptionalTensor& sin, int64_t heads, int64_t groups, Tensor ends_k, Tensor exponents_k,
                   Tensor ends_v, Tensor exponents_v, Tensor running_k, Tensor running_v) {
  require(heads > 0, "rattan::rat: heads must be at least 1, got {}", heads);
  check_carry(ends_k, ends_v, running_k, running_v, at::kChar, heads, gate_bias.numel() / heads);
  const int64_t blocks = kernels::mxint8_blocks(ends_k.size(3));
  for (const Tensor* t : {&exponents_k, &exponents_v})
    require(t->sizes() == at::IntArrayRef({ends_k.size(0), ends_k.size(1), heads, blocks}) &&
                t->scalar_type() == at::kByte && t->is_contiguous(),
            "rattan::rat: exponents must be contiguous uint8 [{}, {}, {}, {}], got [{}]", ends_k.size(0),
            ends_k.size(1), heads, blocks, fmt::join(t->sizes(), ", "));
  require(table.size(0) == proj.size(0), "rattan::rat: a step of {} tokens needs as many chunks, not {}", proj.size(0),
          table.size(0));
  require(ends_k.is_contiguous() && ends_v.is_contiguous(), "rattan::rat: the ends of a state must be contiguous");
  // Chunks of one token: more are refused by check_table.
  return run_forward(proj, gate_bias, table, cos, sin, heads, groups, 1,
                     {.k = ends_k, .v = ends_v, .exponents_k = exponents_k, .exponents_v = exponents_v}, running_k,
                     running_v, running_k, running_v, false, true)
      .out;
}

// Sizes of results may be symbols when a compiler traces.
using Symbolic = ForwardResult(const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&,
                               const OptionalTensor&, int64_t, int64_t, int64_t, c10::SymInt, c10::SymInt,
                               const OptionalTensor&, const OptionalTensor&, const OptionalTensor&,
                               const OptionalTensor&);

class Rat : public torch::autograd::Function<Rat> {
 public:
  static variable_list forward(AutogradContext* ctx, const Tensor& proj, const Tensor& gate_bias, const Tensor& table,
                               const OptionalTensor& cos, const OptionalTensor& sin, int64_t heads, int64_t groups,
                               int64_t chunk, c10::SymInt rows, c10::SymInt ends, const OptionalTensor& ends_k,
                               const OptionalTensor& ends_v, const OptionalTensor& running_k,
                               const OptionalTensor& running_v) {
    at::AutoDispatchBelowADInplaceOrView below;
    static auto op = handle<Symbolic>("rattan::rat");
    auto results = Kept::results([&]() -> std::vector<Tensor> {
      auto [o, sums, k, v, last_k, last_v] = op.call(proj, gate_bias, table, cos, sin, heads, groups, chunk, rows, ends,
                                                     ends_k, ends_v, running_k, running_v);
      return {o, sums, k, v, last_k, last_v};
    });
    const Tensor &out = results[0], &lse = results[1], &new_k = results[2], &new_v = results[3];
    ctx->save_for_backward({proj, gate_bias, table, value_or_undefined(cos), value_or_undefined(sin), new_k, new_v,
                            value_or_undefined(running_k), value_or_undefined(running_v), out, lse});
    ctx->saved_data["heads"] = heads;
    ctx->saved_data["groups"] = groups;
    ctx->saved_data["chunk"] = chunk;
    ctx->saved_data["carried"] = ends_k ? ends_k->size(1) : int64_t{0};
    ctx->mark_non_differentiable({lse});
    ctx->set_materialize_grads(false);
    return results;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    auto s = ctx->get_saved_variables();
    const Tensor& proj = s[0];
    Tensor d_out = grads[0].defined() ? grads[0] : at::zeros_like(s[9]);
    static auto op = handle<decltype(rat_file::backward)>("rattan::rat_backward");
    auto [d_proj, d_bias, d_ends_k, d_ends_v, d_running_k, d_running_v] = op.call(
        proj, s[1], s[2], optional(s[3]), optional(s[4]), ctx->saved_data["heads"].toInt(),
        ctx->saved_data["groups"].toInt(), ctx->saved_data["chunk"].toInt(), s[5], s[6], optional(s[7]), optional(s[8]),
        s[9], s[10], d_out, optional(grads[2]), optional(grads[3]), optional(grads[4]), optional(grads[5]));
    Tensor carried_k, carried_v;
    if (const int64_t carried = ctx->saved_data["carried"].toInt(); carried > 0) {
      // Rows this call wrote itself (a chunk that was begun before may be among the carried ones) had their
      // gradient taken on into the recurrence; the carried values there were never read.
      const Tensor written = s[2].select(1, 3).to(at::kLong);
      auto received = [&](Tensor& total) {
        total.flatten(0, 1).index_fill_(0, written, 0);
        return total.narrow(1, 0, carried).to(proj.scalar_type());
      };
      carried_k = received(d_ends_k), carried_v = received(d_ends_v);
    }
    return {d_proj, d_bias, {}, {}, {}, {}, {}, {}, {}, {}, carried_k, carried_v, d_running_k, d_running_v};
  }
};

ForwardResult differentiable(const Tensor& proj, const Tensor& gate_bias, const Tensor& table,
                             const OptionalTensor& cos, const OptionalTensor& sin, int64_t heads, int64_t groups,
                             int64_t chunk, c10::SymInt rows, c10::SymInt ends, const OptionalTensor& ends_k,
                             const OptionalTensor& ends_v, const OptionalTensor& running_k,
                             const OptionalTensor& running_v) {
  auto o = Rat::apply(proj, gate_bias, table, cos, sin, heads, groups, chunk, std::move(rows), std::move(ends), ends_k,
                      ends_v, running_k, running_v);
  return {o[0], o[1], o[2], o[3], o[4], o[5]};
}

void kernels_of(torch::Library& m) {
  m.impl("rat", forward);
  m.impl("rat_backward", backward);
  m.impl("rat_extend_", extend);
  m.impl("rat_step_cached_", step_cached);
}

TORCH_LIBRARY_FRAGMENT(rattan, m) {
  m.def(
      "rat(Tensor proj, Tensor gate_bias, Tensor table, Tensor? cos, Tensor? sin, int heads, int groups, int chunk, "
      "SymInt rows, SymInt ends, Tensor? ends_k, Tensor? ends_v, Tensor? running_k, Tensor? running_v) -> "
      "(Tensor out, Tensor lse, Tensor new_ends_k, Tensor new_ends_v, Tensor final_k, Tensor final_v)");
  m.def(
      "rat_backward(Tensor proj, Tensor gate_bias, Tensor table, Tensor? cos, Tensor? sin, int heads, int groups, "
      "int chunk, Tensor ends_k, Tensor ends_v, Tensor? running_k, Tensor? running_v, Tensor out, Tensor lse, "
      "Tensor d_out, Tensor? d_ends_k, Tensor? d_ends_v, Tensor? d_final_k, Tensor? d_final_v) -> "
      "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "rat_extend_(Tensor proj, Tensor gate_bias, Tensor table, Tensor? cos, Tensor? sin, int heads, int groups, "
      "int chunk, Tensor(a!) ends_k, Tensor(b!) ends_v, Tensor(c!) running_k, Tensor(d!) running_v, bool step=False, "
      "bool round_ends=False) -> Tensor");
  m.def(
      "rat_step_cached_(Tensor proj, Tensor gate_bias, Tensor table, Tensor? cos, Tensor? sin, int heads, int groups, "
      "Tensor(a!) ends_k, Tensor(b!) exponents_k, Tensor(c!) ends_v, Tensor(d!) exponents_v, "
      "Tensor(e!) running_k, Tensor(f!) running_v) -> Tensor");
}
RATTAN_REGISTER(kernels_of)
TORCH_LIBRARY_IMPL(rattan, Autograd, m) { m.impl("rat", differentiable); }

}  // namespace rat_file

RatResult rat(const at::Tensor& proj, const at::Tensor& gate_bias, const at::Tensor& table, const at::Tensor& cos,
              const at::Tensor& sin, int64_t heads, int64_t groups, int64_t chunk, int64_t rows, int64_t ends,
              const std::optional<RatCarry>& carry) {
  static auto op = handle<decltype(rat_file::forward)>("rattan::rat");
  const RatCarry c = carry.value_or(RatCarry{});
  auto [out, lse, ends_k, ends_v, final_k, final_v] =
      op.call(proj, gate_bias, table, optional(cos), optional(sin), heads, groups, chunk, rows, ends,
              optional(c.ends_k), optional(c.ends_v), optional(c.running_k), optional(c.running_v));
  return {out, ends_k, ends_v, final_k, final_v};
}

at::Tensor rat_extend(const at::Tensor& proj, const at::Tensor& gate_bias, const at::Tensor& table,
                      const at::Tensor& cos, const at::Tensor& sin, int64_t heads, int64_t groups, int64_t chunk,
                      RatCarry& state, bool step, bool round_ends) {
  static auto op = handle<decltype(rat_file::extend)>("rattan::rat_extend_");
  return op.call(proj, gate_bias, table, optional(cos), optional(sin), heads, groups, chunk, state.ends_k, state.ends_v,
                 state.running_k, state.running_v, step, round_ends);
}

at::Tensor rat_step_cached(const at::Tensor& proj, const at::Tensor& gate_bias, const at::Tensor& table,
                           const at::Tensor& cos, const at::Tensor& sin, int64_t heads, int64_t groups,
                           const Cached8& ends_k, const Cached8& ends_v, const at::Tensor& running_k,
                           const at::Tensor& running_v) {
  static auto op = handle<decltype(rat_file::step_cached)>("rattan::rat_step_cached_");
  return op.call(proj, gate_bias, table, optional(cos), optional(sin), heads, groups, ends_k.codes, ends_k.exponents,
                 ends_v.codes, ends_v.exponents, running_k, running_v);
}

}  // namespace rattan::ops
