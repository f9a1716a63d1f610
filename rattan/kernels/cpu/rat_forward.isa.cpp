// RAT forward: a pass over the chunks that writes their ends, then a pass over (tile, group of heads) that
// recomputes the running keys and values of its tokens, starts the online softmax from the local entry and
// streams the chunk ends. Tiles of one token (decode) stream the ends of all heads instead.
#include "rattan/base/parallel.h"
#include "rattan/kernels/cpu/mxint8_row.h"
#include "rattan/kernels/cpu/rat_ends.h"
#include "rattan/kernels/cpu/softmax_tile.h"
#include "rattan/kernels/cpu/stream_cached.h"
#include "rattan/kernels/rat.h"

namespace rattan::kernels::RATTAN_ISA {

template <class T>
class RatForwardRun {
 public:
  explicit RatForwardRun(const RatForward<T>& args)
      : a(args),
        shape(args.shape),
        plan(args.shape, args.table),
        padded(round_up(shape.dim, W)),
        scale(1 / __builtin_sqrtf(static_cast<float>(shape.dim))),
        scratch(Scratch::size<float>(plan.state_count * 2 * shape.heads * padded)) {
    states = {scratch.take<float>(plan.state_count * 2 * shape.heads * padded), shape.heads, padded};
  }

  void run() {
    clear_padding();
    gather_running(plan, shape, a.table, a.running_k, a.running_v, states);
    // Few long chunks are divided by heads, many chunks by chunks; the little work of a step is not divided.
    bool little = shape.tokens * shape.heads * shape.dim < 16384;
    int64_t head_tasks = plan.group_count >= 16 || little ? 1 : shape.heads;
    parallel_for(plan.group_count * head_tasks, [&](int64_t task) {
      RatGroup group = plan.groups[task / head_tasks];
      int64_t from = task % head_tasks, to = head_tasks == 1 ? shape.heads : from + 1;
      for (int64_t j = group.chunk; j < group.chunk + group.chunks; ++j) write_ends(j, from, to);
    });
    run_stream();
    if (plan.only_streams) return;
    int64_t sets = plan.tile_count * shape.groups >= 16 ? shape.groups : shape.heads;
    parallel_for(plan.tile_count * sets, [&](int64_t task) {
      // Later tiles see more; they go first.
      const RatTile& tile = plan.tiles[plan.tile_count - 1 - task / sets];
      if (tile.tokens > 1) run_tile(tile, task % sets, sets);
    });
  }

 private:
  void clear_padding() {
    int64_t width = shape.heads * shape.dim;
    for (int64_t i = 0; i < plan.padding_count; ++i) {
      int64_t row = plan.padding[i];
      std::memset(a.out.at(row), 0, static_cast<size_t>(width) * sizeof(T));
      for (int64_t h = 0; a.lse && h < shape.heads; ++h) a.lse[row * shape.heads + h] = minus_infinity;
    }
  }

  const float* cosines(int64_t chunk) const { return a.cos + a.table[chunk].position * (shape.dim / 2); }
  const float* sines(int64_t chunk) const { return a.sin + a.table[chunk].position * (shape.dim / 2); }
  void turn(float* x, int64_t chunk) const {
    if (a.cos) rotate(x, shape.dim / 2, cosines(chunk), sines(chunk), 1);
  }

  void write_ends(int64_t j, int64_t from, int64_t to) {
    Scratch work(2 * Scratch::size<float>(padded));
    float* k = work.take<float>(padded);
    float* v = work.take<float>(padded);
    const RatChunk& chunk = a.table[j];
    for (int64_t h = from; h < to; ++h) {
      if (h == from) prefetch_recurrence(chunk, h);
      if (h + 1 < to) prefetch_recurrence(chunk, h + 1);
      run_chunk(shape, plan, a.table, a.proj, a.gate_bias, states, j, h, k, v);
      if (chunk.to >= 0) {
        store_row(k, shape.dim, a.final_k.at(chunk.to, h));
        store_row(v, shape.dim, a.final_v.at(chunk.to, h));
      }
      turn(k, j);
      write_end(k, a.ends_k, a.cached_k, chunk.slot, h);
      write_end(v, a.ends_v, a.cached_v, chunk.slot, h);
    }
  }

  void write_end(float* x, const HeadsRef<T>& ends, const Mxint8Heads<int8_t>& cached, int64_t slot, int64_t h) {
    if (cached || a.round_ends)
      for (int64_t c = 0; c < shape.dim; ++c) x[c] = as_stored(x[c], static_cast<const T*>(nullptr));
    if (cached) return encode_row(x, shape.dim, cached.code.at(slot, h), cached.exponent.at(slot, h));
    if (a.round_ends) round_row(x, shape.dim);
    store_row(x, shape.dim, ends.at(slot, h));
  }

  void prefetch_recurrence(const RatChunk& chunk, int64_t h) const {
    RatColumns at(shape, h);
    int64_t rows = chunk.end - chunk.begin < tile_rows ? chunk.end - chunk.begin : tile_rows;
    const T* x = a.proj.at(chunk.begin);
    const int64_t columns[] = {at.v, at.g, at.k};
    for (int64_t column : columns) prefetch_columns(x + column, a.proj.row, rows, shape.dim);
  }
  void prefetch_tile(const RatTile& tile, int64_t h) const {
    RatColumns at(shape, h);
    int64_t begin = a.table[tile.chunk].begin + tile.skip;
    if (begin + tile.tokens > shape.tokens) return;
    const T* x = a.proj.at(begin);
    const int64_t columns[] = {at.v, at.g, at.z};
    for (int64_t column : columns) prefetch_columns(x + column, a.proj.row, tile.tokens, shape.dim);
    prefetch_columns(a.out.at(begin) + at.z, a.out.row, tile.tokens, shape.dim);
  }

  // out = z y and lse, for one token and head.
  void finish(int64_t row, int64_t h, const float* sums, float sum, float max) {
    RatColumns at(shape, h);
    Vec share = splat(1 / sum);
    for (int64_t c = 0; c < shape.dim; c += W) {
      int64_t lanes = shape.dim - c;
      Vec y = load(sums + c) * share;
      Vec z = sigmoid(load_lanes(a.proj.at(row) + at.z + c, lanes));
      store_lanes(a.out.at(row) + at.z + c, z * y, lanes);
    }
    if (a.lse) a.lse[row * shape.heads + h] = max + __builtin_logf(sum);
  }

  // The heads h = set, set + sets, ... of one tile; they share their queries if `sets` is the number of groups.
  void run_tile(const RatTile& tile, int64_t set, int64_t sets) {
    Widths<T> w(shape.dim);
    int64_t n = round_up(tile.tokens, W);
    Scratch work(SoftmaxTile<T>::bytes(w) + QueryPacker<T>::bytes(w, false) +
                 3 * Scratch::size<float>(tile_rows * padded) + 2 * Scratch::size<float>(tile_rows));
    SoftmaxTile<T> softmax(w, scale, work);
    QueryPacker<T> packer(w, work, false);
    float* queries = work.take<float>(tile_rows * padded);
    float* rotated = work.take<float>(tile_rows * padded);
    float* keys = work.take<float>(tile_rows * padded);
    float* lo = work.take<float>(tile_rows);
    float* hi = work.take<float>(tile_rows);
    int64_t first = a.table[tile.chunk].first, last = a.table[tile.chunk + tile.chunks - 1].slot;
    int64_t full = a.table[tile.chunk].slot;  // ends before this one are seen by every token
    prefetch_tile(tile, set);
    load_queries(tile, RatColumns(shape, set).q, n, queries, rotated);
    softmax.n = n;
    softmax.q = packer.pack(n, rotated).transposed;
    for (int64_t h = set; h < shape.heads; h += sets) {
      if (h + sets < shape.heads) prefetch_tile(tile, h + sets);
      run_recurrence(shape, plan, a.table, tile, a.proj, a.gate_bias, states, h, keys, softmax.out,
                     static_cast<float*>(nullptr));
      for (int64_t i = 0; i < n; ++i) {  // the local entry
        softmax.max[i] = i < tile.tokens ? scale * dot_row(queries + i * padded, keys + i * padded, padded) : 0;
        softmax.sum[i] = 1;
      }
      std::memset(softmax.out + tile.tokens * padded, 0, static_cast<size_t>((n - tile.tokens) * padded) * 4);
      for (int64_t j = first; j < last; j += tile_rows) {
        int64_t count = last - j < tile_rows ? last - j : tile_rows;
        Visible visible;
        if (j + count > full) visible = limits(tile, n, j, lo, hi);
        softmax.add(count, a.ends_k.at(j, h), a.ends_k.row, a.ends_v.at(j, h), a.ends_v.row, visible);
      }
      int64_t i = 0;
      for (int64_t c = tile.chunk; c < tile.chunk + tile.chunks; ++c) {
        RatSpan span(tile, a.table, c);
        for (int64_t row = span.begin; row < span.end; ++row, ++i) {
          finish(row, h, softmax.out + i * padded, softmax.sum[i], softmax.max[i]);
        }
      }
    }
  }

  void load_queries(const RatTile& tile, int64_t column, int64_t n, float* queries, float* rotated) {
    int64_t i = 0;
    for (int64_t c = tile.chunk; c < tile.chunk + tile.chunks; ++c) {
      RatSpan span(tile, a.table, c);
      for (int64_t row = span.begin; row < span.end; ++row, ++i) {
        load_row(a.proj.at(row) + column, shape.dim, padded, queries + i * padded);
        std::memcpy(rotated + i * padded, queries + i * padded, static_cast<size_t>(padded) * 4);
        turn(rotated + i * padded, c);
      }
    }
    std::memset(rotated + i * padded, 0, static_cast<size_t>((n - i) * padded) * 4);
  }

  Visible limits(const RatTile& tile, int64_t n, int64_t block, float* lo, float* hi) const {
    int64_t i = 0;
    for (int64_t c = tile.chunk; c < tile.chunk + tile.chunks; ++c) {
      RatSpan span(tile, a.table, c);
      float seen = static_cast<float>(a.table[c].slot - block);
      for (int64_t row = span.begin; row < span.end; ++row, ++i) lo[i] = 0, hi[i] = seen;
    }
    for (; i < n; ++i) lo[i] = hi[i] = 0;
    return {lo, hi};
  }

  // One-token tiles: the parts of each tile's ends are divided over tasks, then merged.
  void run_stream() {
    int64_t floats = round_up(StreamState::floats(shape.heads, padded), 16);
    Scratch partial(Scratch::size<float>(plan.stream_count * floats));
    float* memory = partial.take<float>(plan.stream_count * floats);
    parallel_for(plan.stream_count, [&](int64_t i) { stream_token(plan.streams[i], memory + i * floats); });
    for (int64_t i = 0; i < plan.stream_count; i += plan.streams[i].parts) {
      const RatStream& stream = plan.streams[i];
      if (stream.parts == 1) continue;
      StreamState all(memory + i * floats, shape.heads);
      for (int64_t part = 1; part < stream.parts; ++part) {
        all.merge(StreamState(memory + (i + part) * floats, shape.heads), shape.heads, padded);
      }
      finish_token(plan.tiles[stream.tile], all);
    }
  }

  void stream_token(const RatStream& stream, float* memory) {
    const RatTile& tile = plan.tiles[stream.tile];
    Scratch work(2 * Scratch::size<float>(shape.heads * padded) + Scratch::size<float>(shape.heads * stream_block));
    float* queries = work.take<float>(shape.heads * padded);
    float* keys = work.take<float>(shape.heads * padded);
    float* scores = work.take<float>(shape.heads * stream_block);
    const RatChunk& chunk = a.table[tile.chunk];
    int64_t row = chunk.begin + tile.skip;
    StreamState state(memory, shape.heads);
    state.clear(shape.heads, padded);
    for (int64_t h = 0; h < shape.heads; ++h) {
      float* q = queries + h * padded;
      load_row(a.proj.at(row) + RatColumns(shape, h).q, shape.dim, padded, q);
      for (int64_t c = 0; c < padded; c += W) store(q + c, load(q + c) * splat(scale));
      if (stream.part == 0) {
        run_recurrence(shape, plan, a.table, tile, a.proj, a.gate_bias, states, h, keys, state.out + h * padded,
                       static_cast<float*>(nullptr));
        state.max[h] = dot_row(q, keys, padded);
        state.sum[h] = 1;
      }
      turn(q, tile.chunk);
    }
    int64_t length = (chunk.slot - chunk.first + stream.parts - 1) / stream.parts;
    int64_t begin = chunk.first + stream.part * length;
    int64_t end = begin + length < chunk.slot ? begin + length : chunk.slot;
    if (a.cached_k) {
      stream_cached_keys(begin, end, read_only(a.cached_k), read_only(a.cached_v), shape.heads, shape.heads, shape.dim,
                         queries, state);
      if (stream.parts == 1) finish_token(tile, state);
      return;
    }
    HeadsRef<const T> k{a.ends_k.data, a.ends_k.row, a.ends_k.head}, v{a.ends_v.data, a.ends_v.row, a.ends_v.head};
    stream_keys(begin, end, k, v, shape.heads, shape.heads, shape.dim, queries, scores, state);
    if (stream.parts == 1) finish_token(tile, state);
  }

  void finish_token(const RatTile& tile, const StreamState& state) {
    int64_t row = a.table[tile.chunk].begin + tile.skip;
    for (int64_t h = 0; h < shape.heads; ++h) finish(row, h, state.out + h * padded, state.sum[h], state.max[h]);
  }

  const RatForward<T>& a;
  const RatShape& shape;
  RatPlan plan;
  int64_t padded;
  float scale;
  Scratch scratch;
  RatStates states;
};

void rat_forward(const RatForward<float>& a) { RatForwardRun<float>(a).run(); }
void rat_forward(const RatForward<bf16>& a) { RatForwardRun<bf16>(a).run(); }

}  // namespace rattan::kernels::RATTAN_ISA
