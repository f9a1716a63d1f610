// The torch operators of the project, torch.ops.rattan.*, as C++ functions. Every operator dispatches on the
// device of its inputs, is differentiable where it says so, and takes fp32 or bf16; float64 and anything else
// a kernel does not have is refused with the name of what serves instead (nn/ has composite forms).
// Formulas and layouts: the kernel's header of the same name in kernels/.
#pragma once
#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

#include "rattan/ops/weight.h"

namespace rattan::ops {

// q [N, H, p], k, v [M, Hkv, p], begin, end int32 [N] -> o [N, H, p], lse fp32 [N, H]. Differentiable.
std::tuple<at::Tensor, at::Tensor> attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                             const at::Tensor& begin, const at::Tensor& end, double scale);

// Rows in 8 bits (kernels/mxint8.h): codes int8 [M, H, p] and exponents uint8 [M, H, p / 32 rounded up], of which an
// operator writes and reads rows in place. What float64 holds is taken through fp32. None is differentiable.
struct Cached8 {
  at::Tensor codes, exponents;
};
// Row rows[i] of the cache becomes row from[i] of x [N, H, p], or row i where `from` is undefined; both int64.
void cache_store(const Cached8& to, const at::Tensor& x, const at::Tensor& from, const at::Tensor& rows);
// The rows named by int64 [n] -> [n, H, p] in `dtype`.
at::Tensor cache_load(const Cached8& cache, const at::Tensor& rows, at::ScalarType dtype);
// What a cache would hold of x [N, H, p], in x's type.
at::Tensor cache_round(const at::Tensor& x);
// attention's o over such keys and values, for queries that read keys of their own, as in decoding.
at::Tensor attention_cached(const at::Tensor& q, const Cached8& k, const Cached8& v, const at::Tensor& begin,
                            const at::Tensor& end, double scale);

// State of RAT for a batch, all or none given. Ends are rows of [R, E, H, p]; the chunk table's `first` and
// `slot` index the flattened [R * E] rows of the *resulting* ends.
struct RatCarry {
  at::Tensor ends_k, ends_v;        // [R, E0, H, p] as proj
  at::Tensor running_k, running_v;  // fp32 [R, H, p]
};
struct RatResult {
  at::Tensor out;                   // [N, D]
  at::Tensor ends_k, ends_v;        // [R, E, H, p]
  at::Tensor running_k, running_v;  // fp32 [R, H, p]
};
// proj [N, 3D + 2Gp], gate_bias fp32 [D], table int32 [chunks, 7] (kernels::RatChunk), cos, sin fp32
// [positions, p/2] or undefined. `rows` R and `ends` E size the resulting state; at least 1. Differentiable in
// proj, gate_bias and the carry.
RatResult rat(const at::Tensor& proj, const at::Tensor& gate_bias, const at::Tensor& table, const at::Tensor& cos,
              const at::Tensor& sin, int64_t heads, int64_t groups, int64_t chunk, int64_t rows, int64_t ends,
              const std::optional<RatCarry>& carry);
// The same on a state that is updated in place ([R, E, H, p] and [R, H, p]); not differentiable. `step`: every chunk is
// one token and sees no end that this call writes, as when each sequence gets its next token; then it takes one kernel,
// which in a recorded graph reads state and tables while the launch before it, the one that makes proj, is still busy.
// `round_ends`: the ends are rounded as an 8-bit cache would hold them before anything sees them.
at::Tensor rat_extend(const at::Tensor& proj, const at::Tensor& gate_bias, const at::Tensor& table,
                      const at::Tensor& cos, const at::Tensor& sin, int64_t heads, int64_t groups, int64_t chunk,
                      RatCarry& state, bool step = false, bool round_ends = false);
// The same step on ends in 8 bits, codes and exponents [R, E, H, ...].
at::Tensor rat_step_cached(const at::Tensor& proj, const at::Tensor& gate_bias, const at::Tensor& table,
                           const at::Tensor& cos, const at::Tensor& sin, int64_t heads, int64_t groups,
                           const Cached8& ends_k, const Cached8& ends_v, const at::Tensor& running_k,
                           const at::Tensor& running_v);

// x, gate [N, C], gate_bias fp32 [C], table int32 [segments, 4] (kernels::ScanSegment), initial fp32 [R, C] or
// undefined -> h [N, C], final fp32 [R, C] (R = rows, at least 1). Differentiable.
std::tuple<at::Tensor, at::Tensor> gated_scan(const at::Tensor& x, const at::Tensor& gate, const at::Tensor& gate_bias,
                                              const at::Tensor& table, const at::Tensor& initial, int64_t rows);

// x fp32 [..., D], branch (optional) [..., D] in `dtype`, weight fp32 [D] -> s fp32, y in `dtype`. Differentiable.
std::tuple<at::Tensor, at::Tensor> add_rms_norm(const at::Tensor& x, const at::Tensor& branch, const at::Tensor& weight,
                                                double eps, at::ScalarType dtype);

// The same for an x that a branch was added to already, where `added` stands for the branch (AddedBranch): x itself,
// passed on, and y in added's type. The gradient of x goes to x in fp32 and, rounded, to `added`.
std::tuple<at::Tensor, at::Tensor> rms_norm_after(const at::Tensor& x, const at::Tensor& added,
                                                  const at::Tensor& weight, double eps);

// x weight^T, [..., in] and [out, in] -> [..., out], like at::linear; no operator, it has no schema. Which kernel
// multiplies: product_choice.h. Differentiable.
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight);
at::Tensor linear(const at::Tensor& x, const Weight& weight);
// The same in fp32 (float64 for float64), as logits are wanted; within a FewRowsScope not rounded before.
// Differentiable.
at::Tensor wide_linear(const at::Tensor& x, const at::Tensor& weight);
// a b of matrices, like at::mm, by the same choice.
at::Tensor product(const at::Tensor& a, const at::Tensor& b);
void product_into(at::Tensor c, const at::Tensor& a, const at::Tensor& b);  // c = a b, written in place
// A norm whose product comes next: rows are s / sqrt(mean(s^2) + eps) * weight, rounded to `dtype`.
struct NormToCome {
  at::Tensor weight;  // fp32 [D]
  double eps = 0;
  at::ScalarType dtype = at::kFloat;
};
at::Tensor normed(const at::Tensor& x, const NormToCome& norm);  // of x fp32 [..., D]
// linear(normed(x, norm), weight), then gelu if asked, for x fp32 [..., D]; no operator and not differentiable. One
// kernel where joins_norm(x, dtype) says so, which is within a FewRowsScope alone.
at::Tensor norm_linear(const at::Tensor& x, const NormToCome& norm, const at::Tensor& weight, bool gelu = false);
bool joins_norm(const at::Tensor& x, at::ScalarType dtype);
// sum + x weight^T, written over `sum`, for sum fp32 [..., out] and x [..., in], weight [out, in] in bf16: the product
// is not rounded before it is added. `branch` stands for the product: it holds nothing, and the gradient that
// rms_norm_after gives it, already rounded, is the product's. Nothing, and nothing is done, where that does not pay
// (product_choice.h). Differentiable.
struct AddedBranch {
  at::Tensor sum;     // fp32 [..., out]
  at::Tensor branch;  // bf16 [..., out]; its elements are never read
};
std::optional<AddedBranch> add_linear_(const at::Tensor& sum, const at::Tensor& x, const Weight& weight);
// While one lives on a thread, its `linear` and `add_linear_` of few rows, where nothing is differentiated, take a
// kernel of its own (few_rows.h). Decoding asks for it; training must not, since recomputed activations have to be
// equal bit for bit with and without a gradient graph.
class FewRowsScope {
 public:
  FewRowsScope();
  ~FewRowsScope();
  FewRowsScope(const FewRowsScope&) = delete;
  FewRowsScope& operator=(const FewRowsScope&) = delete;

 private:
  bool before_;
};

// Rotary embedding of x [N, H, p] at int32 positions [N]. Differentiable.
at::Tensor rope(const at::Tensor& x, const at::Tensor& position, const at::Tensor& cos, const at::Tensor& sin);

at::Tensor gelu(const at::Tensor& x);                              // erf form; differentiable
at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up);   // differentiable
at::Tensor sigmoid_mul(const at::Tensor& z, const at::Tensor& y);  // differentiable

// index [N] (int64) = the index of the largest element of each row of x [N, V], the first of several on a GPU.
void argmax_into(const at::Tensor& index, const at::Tensor& x);

// Draws a token of each row of logits [N, V] (fp32) by the row's rule, and tells the logarithm of its probability under
// the logits themselves (kernels/token_draw.h): index int64 [N], logprob float64 [N]; rules float64 [N, 5]: the uniform
// number, temperature (0: the most probable), top-k, top-p, min-p.
void draw_into(const at::Tensor& index, const at::Tensor& logprob, const at::Tensor& logits, const at::Tensor& rules);

// Sum over rows of weight * cross-entropy(h W^T, target), rows with target < 0 left out, without ever holding
// all logits: h [N, D], W [V, D], target int64 [N], weight fp32 [N] or undefined -> fp32 scalar. Differentiable
// in h and W.
at::Tensor linear_cross_entropy(const at::Tensor& h, const at::Tensor& w, const at::Tensor& target,
                                const at::Tensor& weight);

// cos, sin fp32 [positions, dim / 2] on `device`; kept between calls, grown by doubling.
std::tuple<at::Tensor, at::Tensor> rope_tables(int64_t positions, int64_t dim, double base, at::Device device);

}  // namespace rattan::ops
