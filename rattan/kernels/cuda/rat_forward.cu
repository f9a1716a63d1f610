// RAT forward on one stream: rows, rotate, scan, attention over the chunk ends, merge, final (rat_stages.h).
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
  float *local, *lse_ends;  // [N, H]: scores of the local entries, log-sum-exp over the ends
  T* queries;               // [N, G, p]
  Pieces(Scratch& scratch, const RatShape& s)
      : rows{scratch.take<int32_t>(s.tokens), scratch.take<int32_t>(s.tokens)},
        local(scratch.take<float>(s.tokens * s.heads)),
        lse_ends(scratch.take<float>(s.tokens * s.heads)),
        queries(scratch.take<T>(s.tokens * s.groups * s.dim)) {}
};

template <class T>
void run(const RatForward<T>& a, void* scratch_memory, void* stream_pointer) {
  const RatShape& shape = a.shape;
  if (shape.tokens == 0 || shape.heads == 0 || shape.dim == 0) return;
  check_dim("rat_forward", shape.dim);
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  Scratch scratch(scratch_memory);
  const Pieces<T> s(scratch, shape);
  const int64_t width = shape.heads * shape.dim, query_width = shape.groups * shape.dim;
  rat_rows(shape, a.table, s.rows, stream);
  RatPadding<T> padding;
  padding.rows[0] = a.out, padding.rows[1] = a.y, padding.rows[2] = {s.queries, query_width};
  padding.count[0] = padding.count[1] = width, padding.count[2] = query_width;
  padding.per_head = a.lse, padding.value = -INFINITY;
  rat_padding(shape, s.rows, padding, stream);
  if (shape.chunks == 0) return;
  rat_rotate(shape, a.table, a.cos, a.sin, a.proj, by_token(s.queries, query_width, shape.dim), stream);
  rat_scan(a, s.local, {}, stream);

  // The attention's result lies in `out` until the merge.
  IntervalForward<T> f;
  f.queries = shape.tokens, f.keys = shape.ends, f.dim = shape.dim;
  f.heads = f.kv_heads = shape.heads, f.q_heads = shape.groups;
  f.scale = 1.0f / std::sqrt(static_cast<float>(shape.dim));
  f.begin = s.rows.first, f.end = s.rows.slot;
  f.q = {s.queries, query_width, shape.dim};
  f.k = {a.ends_k.data, a.ends_k.row, a.ends_k.head};
  f.v = {a.ends_v.data, a.ends_v.row, a.ends_v.head};
  f.o = {a.out.data, a.out.row, shape.dim};
  f.lse = s.lse_ends;
  interval_attention_forward(f, stream);
  rat_merge(a, by_token<const T>(a.out.data, a.out.row, shape.dim), by_token<const float>(s.lse_ends, shape.heads, 1),
            s.local, by_token(a.y.data, a.y.row, shape.dim), stream);
  rat_final(a, stream);
}

}  // namespace rat_forward_file

// Per token: 8 bytes of rows, two fp32 a head, the rotated queries (counted as fp32): 1.2 KB at 16 heads of 128 in
// 2 groups.
int64_t rat_forward_scratch_bytes(const RatShape& shape) {
  Scratch scratch;
  rat_forward_file::Pieces<float>(scratch, shape);
  return scratch.used();
}
void rat_forward(const RatForward<float>& a, void* scratch, void* stream) { rat_forward_file::run(a, scratch, stream); }
void rat_forward(const RatForward<bf16>& a, void* scratch, void* stream) { rat_forward_file::run(a, scratch, stream); }

}  // namespace rattan::kernels::cuda
