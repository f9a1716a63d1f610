// Interval attention, forward: one task per (tile of query rows, head), or per part of a one-row tile's keys.
#include "rattan/base/parallel.h"
#include "rattan/kernels/attention.h"
#include "rattan/kernels/cpu/attention_rows.h"
#include "rattan/kernels/cpu/stream.h"

namespace rattan::kernels::RATTAN_ISA {

template <class T>
class AttentionForwardRun {
 public:
  explicit AttentionForwardRun(const AttentionForward<T>& args)
      : a(args), plan(a.queries, a.begin, a.end, true), padded(round_up(a.dim, W)) {}

  void run() {
    int64_t floats = round_up(StreamState::floats(a.heads, padded), 16);
    Scratch partial(Scratch::size<float>(plan.stream_count * floats));
    float* memory = partial.take<float>(plan.stream_count * floats);
    int64_t tile_tasks = plan.tile_count * a.heads;
    parallel_for(tile_tasks + plan.stream_count, [&](int64_t task) {
      if (task < tile_tasks) {
        // Later tiles see more in causal attention; they go first.
        run_tile(plan.tiles[plan.tile_count - 1 - task / a.heads], task % a.heads);
      } else {
        run_stream(plan.streams[task - tile_tasks], memory + (task - tile_tasks) * floats);
      }
    });
    for (int64_t i = 0; i < plan.stream_count; i += plan.streams[i].parts) {
      int64_t parts = plan.streams[i].parts;
      if (parts == 1) continue;
      StreamState all(memory + i * floats, a.heads);
      for (int64_t part = 1; part < parts; ++part) {
        all.merge(StreamState(memory + (i + part) * floats, a.heads), a.heads, padded);
      }
      finish_stream(plan.streams[i].row, all);
    }
  }

 private:
  void finish(int64_t row, int64_t h, const float* sums, float sum, float max) {
    Vec factor = splat(sum > 0 ? 1 / sum : 0);
    T* o = a.o.at(row, h);
    for (int64_t c = 0; c < a.dim; c += W) {
      Vec x = load(sums + c) * factor;
      if (a.dim - c >= W) {
        store(o + c, x);
      } else {
        store_n(o + c, x, a.dim - c);
      }
    }
    a.lse[row * a.heads + h] = sum > 0 ? max + __builtin_logf(sum) : minus_infinity;
  }

  void run_tile(const AttentionTile& tile, int64_t h) {
    Widths<T> w(a.dim);
    Scratch work(SoftmaxTile<T>::bytes(w) + QueryPacker<T>::bytes(w, false) + Scratch::size<float>(tile_rows * padded) +
                 2 * Scratch::size<float>(tile_rows));
    SoftmaxTile<T> softmax(w, a.scale, work);
    QueryPacker<T> packer(w, work, false);
    float* queries = work.take<float>(tile_rows * padded);
    float* lo = work.take<float>(tile_rows);
    float* hi = work.take<float>(tile_rows);
    int64_t n = softmax.n = round_up(tile.rows, W), kv = h / (a.heads / a.kv_heads);
    softmax.start_empty();
    if (tile.begin < tile.end) {
      load_tile(a.q, tile, h, n, a.dim, queries);
      softmax.q = packer.pack(n, queries).transposed;
    }
    for (int64_t j = tile.begin; j < tile.end; j += tile_rows) {
      int64_t count = block_count(tile, j);
      Visible visible = visible_keys(tile, a.begin, a.end, n, j, count, lo, hi);
      softmax.add(count, a.k.at(j, kv), a.k.row, a.v.at(j, kv), a.v.row, visible);
    }
    for (int64_t i = 0; i < tile.rows; ++i) {
      finish(tile.row + i, h, softmax.out + i * padded, softmax.sum[i], softmax.max[i]);
    }
  }

  void run_stream(const AttentionStream& stream, float* memory) {
    Scratch work(Scratch::size<float>(a.heads * padded) + Scratch::size<float>(a.heads * stream_block));
    float* queries = work.take<float>(a.heads * padded);
    float* scores = work.take<float>(a.heads * stream_block);
    StreamState state(memory, a.heads);
    state.clear(a.heads, padded);
    for (int64_t h = 0; h < a.heads; ++h) {
      float* q = queries + h * padded;
      load_row(a.q.at(stream.row, h), a.dim, padded, q);
      for (int64_t c = 0; c < padded; c += W) store(q + c, load(q + c) * splat(a.scale));
    }
    stream_keys(stream.begin, stream.end, a.k, a.v, a.heads, a.kv_heads, a.dim, queries, scores, state);
    if (stream.parts == 1) finish_stream(stream.row, state);
  }

  void finish_stream(int64_t row, const StreamState& state) {
    for (int64_t h = 0; h < a.heads; ++h) finish(row, h, state.out + h * padded, state.sum[h], state.max[h]);
  }

  const AttentionForward<T>& a;
  AttentionPlan plan;
  int64_t padded;
};

void attention_forward(const AttentionForward<float>& a) { AttentionForwardRun<float>(a).run(); }
void attention_forward(const AttentionForward<bf16>& a) { AttentionForwardRun<bf16>(a).run(); }

}  // namespace rattan::kernels::RATTAN_ISA
