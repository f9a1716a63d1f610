// RAT mixing, fused: gates, recurrence inside chunks, chunk RoPE, attention over chunk ends, output gate.
// Source: RAT (arXiv 2507.04416), section 3, and the authors' code for the head-to-group rule.
//
// Sizes: N token rows, H heads of p channels, D = H p, G groups, L the chunk length. Head h uses the query and
// key of group h mod G. proj[n] = [z' | v | g' | q' | k'] of widths D, D, D, G p, G p. Per channel:
//   z = sigmoid(z'),  g = sigmoid(g' + gate_bias)
//   k~_l = g k~_{l-1} + (1-g) k',  v~_l = g v~_{l-1} + (1-g) v       from 0, or from the carried running state
//   chunk end e of a chunk: k^_e = R_c k~_last, v~_last              (R_c: rotate-half RoPE at chunk index c)
//   S_e = s (R_c q)·k^_e for the ends visible to the chunk, S_loc = s q·k~_l  (the rotation cancels), s = 1/sqrt(p)
//   y = softmax([S_e..., S_loc]) over [v~_e..., v~_l];   out = z * y
//
// The chunk table makes this one kernel for training, prefill, chunked prefill and one-token steps. `ends_k`
// and `ends_v` are a buffer of `ends` rows (a scratch buffer in training, the cache in serving). Chunk j holds
// the tokens [begin, end) (1 to L of them), writes its end to row `slot` and sees the rows [first, slot) before
// it, which earlier chunks of this call wrote or which were there before. `from` names the running-state row
// it starts from (-1: zeros), `to` the row its last state is left in (-1: nowhere). Chunks of one sequence
// stand in order; the tables of all sequences stand one after the other. Tokens in no chunk are padding:
// their out and gradients are 0, lse -inf.
//
// Backward recomputes the running keys and values; saved are proj, out, lse and the ends. With dy = z dout and
// delta = dy·y = dout·out per token and head, P = exp(S - lse):
//   dS = P (dy·v - delta);  dq = s R_c^T sum_e dS_e k^_e + s dS_loc k~, summed over the heads of a group
//   dk~ = s dS_loc q (+ R_c^T of what later chunks send to this end, + d_ends_k, at the last token)
//   dv~ = P_loc dy (+ what later chunks send, + d_ends_v, at the last token)
//   reverse scan in the chunk: lam_l = dk~_l + g_{l+1} lam_{l+1}, mu likewise (+ d_running at the last token)
//   dk' = sum over heads (1-g) lam;  dv = (1-g) mu;  dg = lam (k~_{l-1} - k') + mu (v~_{l-1} - v)
//   dg' = g (1-g) dg;  d_gate_bias = sum dg';  dz' = (1-z) dout·out
//
// Types: float or bf16 for proj, out, ends; gate bias, running state and statistics fp32; sums in fp32.
// Bitwise the same from run to run and for every number of threads.
#pragma once
#include "rattan/kernels/mxint8.h"

namespace rattan::kernels {

struct RatChunk {
  int32_t begin, end;   // token rows
  int32_t first, slot;  // visible end rows [first, slot); own end row
  int32_t position;     // chunk index c for the rotation
  int32_t from, to;     // running-state rows read and written, -1: none
};

struct RatShape {
  int64_t tokens = 0, heads = 0, groups = 0, dim = 0;  // N, H, G, p
  int64_t chunks = 0, ends = 0, max_chunk = 0;         // rows of the table; rows of the ends buffer; L
  int64_t width() const { return 3 * heads * dim + 2 * groups * dim; }
};

template <class T>
struct RatForward {
  RatShape shape;
  const RatChunk* table = nullptr;   // [chunks]
  RowsRef<const T> proj;             // [N, width()]
  const float* gate_bias = nullptr;  // [D]
  const float* cos = nullptr;        // [positions, p/2], optional: no rotation
  const float* sin = nullptr;
  HeadsRef<T> ends_k, ends_v;                  // [ends, H, p], read and written
  HeadsRef<const float> running_k, running_v;  // [rows, H, p] read by `from`
  HeadsRef<float> final_k, final_v;            // [rows, H, p] written by `to`; may be the same storage as running_*
  RowsRef<T> out;                              // [N, D]
  float* lse = nullptr;                        // [N, H], optional (needed by backward)
  bool step = false;  // every chunk is one token and sees no end that this call writes: a decoding step
  // In a decoding step the ends may stand here, in 8 bits, instead of in ends_k and ends_v. In other calls round_ends
  // gives the ends that are written the values that 8 bits hold of them, before anything sees them.
  Mxint8Heads<int8_t> cached_k, cached_v;
  bool round_ends = false;
};

template <class T>
struct RatBackward {
  RatShape shape;
  const RatChunk* table = nullptr;
  RowsRef<const T> proj;
  const float* gate_bias = nullptr;
  const float* cos = nullptr;
  const float* sin = nullptr;
  HeadsRef<const T> ends_k, ends_v;  // as forward left them
  HeadsRef<const float> running_k, running_v;
  RowsRef<const T> out;
  const float* lse = nullptr;
  RowsRef<const T> d_out;                      // [N, D]
  HeadsRef<const float> d_final_k, d_final_v;  // [rows, H, p], optional: gradient of the final states
  RowsRef<T> d_proj;                           // [N, width()], every element is written
  float* d_gate_bias = nullptr;                // [D], written
  HeadsRef<float> d_ends_k, d_ends_v;          // [ends, H, p]: in: gradient that reaches the ends from outside;
                                               // out: total gradient of the rows (what carried rows receive)
  HeadsRef<float> d_running_k, d_running_v;    // [rows, H, p], optional: written for rows named by `from`
};

void rat_forward(const RatForward<float>& a);
void rat_forward(const RatForward<bf16>& a);
void rat_backward(const RatBackward<float>& a);
void rat_backward(const RatBackward<bf16>& a);

namespace cuda {
// The chunk table of a decoding step: token i is the one at positions[i] of the sequence with the state row rows[i]
// and, in the buffer of ends, the rows from rows[i] * ends on.
struct RatStepTable {
  int64_t tokens = 0, chunk = 0, ends = 0;
  const int32_t *rows = nullptr, *positions = nullptr;  // [tokens]
  RatChunk* table = nullptr;                            // [tokens]
};
void rat_step_table(const RatStepTable& a, void* stream);
// Device pointers, the table too. `scratch` is device memory of rat_scratch_bytes().
int64_t rat_forward_scratch_bytes(const RatForward<float>& a);
int64_t rat_forward_scratch_bytes(const RatForward<bf16>& a);
int64_t rat_backward_scratch_bytes(const RatShape& shape);
void rat_forward(const RatForward<float>& a, void* scratch, void* stream);
void rat_forward(const RatForward<bf16>& a, void* scratch, void* stream);
void rat_backward(const RatBackward<float>& a, void* scratch, void* stream);
void rat_backward(const RatBackward<bf16>& a, void* scratch, void* stream);
}  // namespace cuda

}  // namespace rattan::kernels
