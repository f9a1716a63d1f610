// RAT backward on one stream: rows, rotate, gate, attention over the chunk ends, chunks (rat_stages.h). The attention
// takes the gate over where it can: dy is on its way through it anyway.
// Until the last stage overwrites them, dy lies where dv will and the rotated queries where dq will: d_proj is the
// scratch memory of both.
#include <cmath>

#include "rattan/kernels/cuda/device.cuh"
#include "rattan/kernels/cuda/interval_attention.h"
#include "rattan/kernels/cuda/launch.h"
#include "rattan/kernels/cuda/rat_stages.h"

namespace rattan::kernels::cuda {

namespace rat_backward_file {

template <class T>
IntervalBackward<T, float> attention(const RatShape& s) {
  IntervalBackward<T, float> b;
  b.queries = s.tokens, b.keys = s.ends, b.dim = s.dim;
  b.heads = b.kv_heads = s.heads, b.q_heads = s.groups;
  b.scale = 1.0f / std::sqrt(static_cast<float>(s.dim));
  b.accumulate = true;
  return b;
}

template <class T>
struct Pieces {
  RatRows rows;
  float* delta;  // [N, H]
  float* dq;     // [N, G, p], rotated, from the ends
  char* attention;
  RatChunksScratch chunks;
  Pieces(Scratch& scratch, const RatShape& s)
      : rows{scratch.take<int32_t>(s.tokens), scratch.take<int32_t>(s.tokens)},
        delta(scratch.take<float>(s.tokens * s.heads)),
        dq(scratch.take<float>(s.tokens * s.groups * s.dim)),
        attention(scratch.take<char>(interval_backward_scratch_bytes(rat_backward_file::attention<T>(s)))),
        chunks(scratch, s) {}
};

template <class T>
void run(const RatBackward<T>& a, void* scratch_memory, void* stream_pointer) {
  const RatShape& shape = a.shape;
  if (shape.heads == 0 || shape.dim == 0) return;
  const int64_t width = shape.heads * shape.dim, query_width = shape.groups * shape.dim;
  if (shape.tokens == 0 || shape.chunks == 0) {
    zero_async(a.d_gate_bias, width * 4, "rat_backward (bias)", stream_pointer);
  }
  if (shape.tokens == 0) return;
  check_dim("rat_backward", shape.dim);
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  Scratch scratch(scratch_memory);
  const Pieces<T> s(scratch, shape);
  const RatColumns columns(shape);
  T *dy = a.d_proj.data + columns.v, *queries = a.d_proj.data + columns.q;
  const int64_t row = a.d_proj.row;
  rat_rows(shape, a.table, s.rows, stream);
  RatPadding<T> padding;
  padding.rows[0] = a.d_proj, padding.count[0] = columns.width, padding.per_head = s.delta;
  rat_padding(shape, s.rows, padding, stream);
  if (shape.chunks == 0) return;
  rat_rotate(shape, a.table, a.cos, a.sin, a.proj, by_token(queries, row, shape.dim), stream);

  IntervalBackward<T, float> b = attention<T>(shape);
  b.begin = s.rows.first, b.end = s.rows.slot, b.lse = a.lse, b.delta = s.delta, b.scratch = s.attention;
  b.q = {queries, row, shape.dim};
  b.k = a.ends_k, b.v = a.ends_v;
  b.d_o = {dy, row, shape.dim};
  b.dq = {s.dq, query_width, shape.dim};
  b.dk = a.d_ends_k, b.dv = a.d_ends_v;
  b.gated.d_out = {a.d_out.data, a.d_out.row, shape.dim}, b.gated.out = {a.out.data, a.out.row, shape.dim};
  b.gated.gate = {a.proj.data + columns.z, a.proj.row, shape.dim};
  b.gated.d_y = {dy, row, shape.dim}, b.gated.d_gate = {a.d_proj.data + columns.z, row, shape.dim};
  b.gated.delta = s.delta;
  if (!interval_backward_gates(b)) {
    b.gated = {};
    rat_gate(a, by_token(dy, row, shape.dim), s.delta, stream);
  }
  interval_attention_backward(b, stream);
  rat_chunks(a, by_token<const T>(dy, row, shape.dim), by_token<const float>(s.dq, query_width, shape.dim), s.delta,
             s.chunks, stream);
}

}  // namespace rat_backward_file

// Per token: 8 bytes of rows, 4 H of delta, 4 G p of dq; for chunks of more than 16 tokens D / 2 of states; 8 G p for
// each slice if a group's heads are cut into slices (few chunks or many heads); and up to 16 KB a channel for the
// gate bias. 1.2 KB a token at 16 heads of 128 in 2 groups.
int64_t rat_backward_scratch_bytes(const RatShape& shape) {
  Scratch scratch;
  rat_backward_file::Pieces<bf16>(scratch, shape);
  return scratch.used();
}
void rat_backward(const RatBackward<float>& a, void* scratch, void* stream) {
  rat_backward_file::run(a, scratch, stream);
}
void rat_backward(const RatBackward<bf16>& a, void* scratch, void* stream) {
  rat_backward_file::run(a, scratch, stream);
}

}  // namespace rattan::kernels::cuda
