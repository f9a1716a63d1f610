// Interval attention, backward: one pass over (cluster of tiles, key/value head, or query head where there are
// few of those) that writes dq and sums dk and dv in fp32 in the order of the tiles; then the sums of a group's
// heads are added in order and rounded.
#include "rattan/base/parallel.h"
#include "rattan/kernels/attention.h"
#include "rattan/kernels/cpu/attention_rows.h"
#include "rattan/kernels/cpu/gradient_tile.h"
#include "rattan/kernels/cpu/stream.h"

namespace rattan::kernels::RATTAN_ISA {

template <class T>
class AttentionBackwardRun {
 public:
  explicit AttentionBackwardRun(const AttentionBackward<T>& args)
      : a(args),
        plan(a.queries, a.begin, a.end, false),
        padded(round_up(a.dim, W)),
        share(a.heads / a.kv_heads),
        // One sum per key/value head if that makes tasks enough, else one per query head.
        heads_of_sum(plan.cluster_count * a.kv_heads >= 8 ? share : 1),
        sums(a.heads / heads_of_sum),
        scratch(2 * Scratch::size<float>(sums * a.keys * padded) + Scratch::size<bool>(a.keys)) {
    dk = scratch.take<float>(sums * a.keys * padded);
    dv = scratch.take<float>(sums * a.keys * padded);
    seen = scratch.take<bool>(a.keys);
    std::memset(seen, 0, static_cast<size_t>(a.keys));
    for (int64_t c = 0; c < plan.cluster_count; ++c) {
      std::memset(seen + plan.clusters[c].begin, 1, static_cast<size_t>(plan.clusters[c].end - plan.clusters[c].begin));
    }
  }

  void run() {
    parallel_for(plan.cluster_count * sums,
                 [&](int64_t task) { run_cluster(plan.clusters[task / sums], task % sums); });
    parallel_for((a.keys + tile_rows - 1) / tile_rows, [&](int64_t block) {
      int64_t end = (block + 1) * tile_rows < a.keys ? (block + 1) * tile_rows : a.keys;
      for (int64_t j = block * tile_rows; j < end; ++j) write_key(j);
    });
  }

 private:
  void run_cluster(const AttentionCluster& cluster, int64_t sum_index) {
    Widths<T> w(a.dim);
    Scratch work(GradientTile<T>::bytes(w) + 2 * QueryPacker<T>::bytes(w, true) +
                 2 * Scratch::size<float>(tile_rows * padded) + 2 * Scratch::size<float>(tile_rows));
    GradientTile<T> gradient(w, a.scale, work);
    QueryPacker<T> pack_q(w, work, true), pack_d(w, work, true);
    float* queries = work.take<float>(tile_rows * padded);
    float* d_outs = work.take<float>(tile_rows * padded);
    float* lo = work.take<float>(tile_rows);
    float* hi = work.take<float>(tile_rows);
    int64_t kv = sum_index * heads_of_sum / share;
    float* sum_k = dk + sum_index * a.keys * padded;
    float* sum_v = dv + sum_index * a.keys * padded;
    size_t bytes = static_cast<size_t>((cluster.end - cluster.begin) * padded) * sizeof(float);
    std::memset(sum_k + cluster.begin * padded, 0, bytes);
    std::memset(sum_v + cluster.begin * padded, 0, bytes);
    for (int64_t t = cluster.tile; t < cluster.tile + cluster.tiles; ++t) {
      const AttentionTile& tile = plan.tiles[t];
      int64_t n = gradient.n = round_up(tile.rows, W);
      for (int64_t h = sum_index * heads_of_sum; h < (sum_index + 1) * heads_of_sum; ++h) {
        std::memset(gradient.dq, 0, static_cast<size_t>(n * padded) * sizeof(float));
        if (tile.begin < tile.end) {
          load_tile(a.q, tile, h, n, a.dim, queries);
          load_tile(a.d_o, tile, h, n, a.dim, d_outs);
          for (int64_t i = 0; i < n; ++i) {
            bool seen = i < tile.rows && a.begin[tile.row + i] < a.end[tile.row + i];
            int64_t row = (tile.row + i) * a.heads + h;
            gradient.lse[i] = seen ? a.lse[row] : __builtin_inff();
            gradient.delta[i] = seen ? dot_row(d_outs + i * padded, a.o.at(tile.row + i, h), a.dim) : 0;
            if (seen && a.d_lse) gradient.delta[i] -= a.d_lse[row];
          }
          gradient.q = pack_q.pack(n, queries);
          gradient.d_o = pack_d.pack(n, d_outs);
        }
        for (int64_t j = tile.begin; j < tile.end; j += tile_rows) {
          int64_t count = block_count(tile, j);
          Visible visible = visible_keys(tile, a.begin, a.end, n, j, count, lo, hi);
          gradient.add(count, a.k.at(j, kv), a.k.row, a.v.at(j, kv), a.v.row, visible, sum_k + j * padded,
                       sum_v + j * padded);
        }
        for (int64_t i = 0; i < tile.rows; ++i) {
          store_row(gradient.dq + i * padded, a.dim, a.dq.at(tile.row + i, h));
        }
      }
    }
  }

  void write_key(int64_t j) {
    int64_t parts = share / heads_of_sum;
    for (int64_t kv = 0; kv < a.kv_heads; ++kv) {
      write(j, kv, parts, dk, a.dk.at(j, kv));
      write(j, kv, parts, dv, a.dv.at(j, kv));
    }
  }

  void write(int64_t j, int64_t kv, int64_t parts, const float* sum, T* out) {
    for (int64_t c = 0; c < a.dim; c += W) {
      Vec total = zero();
      for (int64_t part = 0; seen[j] && part < parts; ++part) {
        total += load(sum + ((kv * parts + part) * a.keys + j) * padded + c);
      }
      if (a.dim - c >= W) {
        store(out + c, total);
      } else {
        store_n(out + c, total, a.dim - c);
      }
    }
  }

  const AttentionBackward<T>& a;
  AttentionPlan plan;
  int64_t padded, share, heads_of_sum, sums;
  Scratch scratch;
  float* dk;  // [sums][keys][padded]
  float* dv;
  bool* seen;  // [keys] whether any query sees the key
};

void attention_backward(const AttentionBackward<float>& a) { AttentionBackwardRun<float>(a).run(); }
void attention_backward(const AttentionBackward<bf16>& a) { AttentionBackwardRun<bf16>(a).run(); }

}  // namespace rattan::kernels::RATTAN_ISA
