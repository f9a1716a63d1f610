// RAT forward on one stream. A decoding step is one kernel (rat_step.cu); else: rows, rotate, scan, attention over the
// chunk ends with the local entries, final (rat_stages.h).
#include <cmath>

#include "rattan/kernels/cuda/device.cuh"
#include "rattan/kernels/cuda/interval_attention.h"
#include "rattan/kernels/cuda/launch.h"
#include "rattan/kernels/cuda/rat_stages.h"

namespace rattan::kernels::cuda {

namespace rat_forward_file {

template <class T>
struct Pieces {
  RatRows rows;
  float *local, *lse;   // [N, H]; lse: if the caller keeps none
  T *queries, *values;  // [N, G, p], [N, H, p]: v~
  float* parts;
  Pieces(Scratch& scratch, const RatForward<T>& a)
      : rows{scratch.take<int32_t>(a.shape.tokens), scratch.take<int32_t>(a.shape.tokens)},
        local(scratch.take<float>(a.shape.tokens * a.shape.heads)),
        lse(scratch.take<float>(a.lse ? 0 : a.shape.tokens * a.shape.heads)),
        queries(scratch.take<T>(a.shape.tokens * a.shape.groups * a.shape.dim)),
        values(scratch.take<T>(a.shape.tokens * a.shape.heads * a.shape.dim)),
        parts(scratch.take<float>(
            interval_rows_scratch_bytes(a.shape.tokens, a.shape.ends, a.shape.heads, a.shape.dim) / 4)) {}
};

template <class T>
void round_ends(const RatForward<T>& a, cudaStream_t stream) {
  Mxint8Round<T> r;
  r.rows = a.shape.chunks, r.heads = a.shape.heads, r.dim = a.shape.dim;
  r.at = &a.table->slot, r.stride = sizeof(RatChunk) / sizeof(int32_t);
  r.x = a.ends_k;
  mxint8_round(r, stream);
  r.x = a.ends_v;
  mxint8_round(r, stream);
}

template <class T>
void run(const RatForward<T>& a, void* scratch_memory, void* stream_pointer) {
  const RatShape& shape = a.shape;
  if (shape.tokens == 0 || shape.heads == 0 || shape.dim == 0) return;
  check_dim("rat_forward", shape.dim);
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  if (a.step) return rat_step(a, scratch_memory, stream);
  Scratch scratch(scratch_memory);
  const Pieces<T> s(scratch, a);
  const int64_t width = shape.heads * shape.dim, query_width = shape.groups * shape.dim;
  rat_rows(shape, a.table, s.rows, stream);
  RatPadding<T> padding;  // rows that see no end and have no local entry come out as zeros
  padding.per_head = s.local, padding.value = -INFINITY;
  rat_padding(shape, s.rows, padding, stream);
  if (shape.chunks > 0) {
    rat_rotate(shape, a.table, a.cos, a.sin, a.proj, by_token(s.queries, query_width, shape.dim), stream);
    rat_scan(a, s.local, by_token(s.values, width, shape.dim), stream);
    if (a.round_ends) round_ends(a, stream);
  }
  IntervalForward<T> f;
  f.queries = shape.tokens, f.keys = shape.ends, f.dim = shape.dim;
  f.heads = f.kv_heads = shape.heads, f.q_heads = shape.groups;
  f.scale = 1.0f / std::sqrt(static_cast<float>(shape.dim));
  f.begin = s.rows.first, f.end = s.rows.slot;
  f.q = {s.queries, query_width, shape.dim};
  f.k = {a.ends_k.data, a.ends_k.row, a.ends_k.head};
  f.v = {a.ends_v.data, a.ends_v.row, a.ends_v.head};
  f.o = {a.out.data, a.out.row, shape.dim};
  f.lse = a.lse ? a.lse : s.lse;
  f.own.score = s.local;
  f.own.value = {s.values, width, shape.dim};
  f.own.gate = {a.proj.data + RatColumns(shape).z, a.proj.row, shape.dim};
  f.scratch = s.parts;
  f.shared_keys = true;
  interval_attention_forward(f, stream);
  if (shape.chunks > 0) rat_final(a, stream);
}

template <class T>
int64_t scratch_bytes(const RatForward<T>& a) {
  if (a.step) return rat_step_scratch_bytes(a.shape);
  Scratch scratch;
  Pieces<T>(scratch, a);
  return scratch.used();
}

}  // namespace rat_forward_file

// Per token: 8 bytes of rows, one or two fp32 a head, the rotated queries and the running values: 4.7 KB at 16 heads
// of 128 in 2 groups and bf16.
int64_t rat_forward_scratch_bytes(const RatForward<float>& a) { return rat_forward_file::scratch_bytes(a); }
int64_t rat_forward_scratch_bytes(const RatForward<bf16>& a) { return rat_forward_file::scratch_bytes(a); }
void rat_forward(const RatForward<float>& a, void* scratch, void* stream) { rat_forward_file::run(a, scratch, stream); }
void rat_forward(const RatForward<bf16>& a, void* scratch, void* stream) { rat_forward_file::run(a, scratch, stream); }

}  // namespace rattan::kernels::cuda
