// RAT backward of one tile and one head: attention over the ends, the local entry, the reverse scan.
#pragma once
#include "rattan/kernels/cpu/gradient_tile.h"
#include "rattan/kernels/cpu/rat_tile.h"
#include "rattan/kernels/cpu/stream.h"

namespace rattan::kernels::RATTAN_ISA {

// Buffers that outlive a tile; one row is `padded` floats.
struct RatGradients {
  float* ends_k;  // [heads][ends] gradients of the ends, summed up while tiles go from last to first
  float* ends_v;
  float* dq;  // [heads][round_tokens] a head's part of dq and dk', summed over the heads of a group later
  float* dk;
  float* bias;   // [sequences][heads]
  float* carry;  // [sequences][heads][2] what a piece of a chunk sends to the piece before it
};

template <class T>
class RatBackwardTile {
 public:
  RatBackwardTile(const RatBackward<T>& args, const RatPlan& the_plan, const RatStates& the_states,
                  const RatGradients& gradients, int64_t head, Scratch& scratch)
      : a(args),
        shape(args.shape),
        plan(the_plan),
        states(the_states),
        grad(gradients),
        h(head),
        at(args.shape, head),
        w(args.shape.dim),
        padded(w.padded),
        scale(1 / __builtin_sqrtf(static_cast<float>(args.shape.dim))),
        tile_(w, scale, scratch),
        pack_q_(w, scratch, true),
        pack_d_(w, scratch, true) {
    float** arrays[] = {&queries_, &rotated_, &dy_, &keys_, &values_, &gates_};
    for (float** array : arrays) *array = scratch.take<float>(tile_rows * padded);
    float** vectors[] = {&local_, &d_local_, &lo_, &hi_};
    for (float** vector : vectors) *vector = scratch.take<float>(tile_rows);
    end_k_ = scratch.take<float>(padded);
  }
  static size_t bytes(int64_t dim) {
    Widths<T> w(dim);
    return GradientTile<T>::bytes(w) + 2 * QueryPacker<T>::bytes(w, true) +
           6 * Scratch::size<float>(tile_rows * w.padded) + 4 * Scratch::size<float>(tile_rows) +
           Scratch::size<float>(w.padded);
  }

  // Asks for what run() will read and write.
  void prefetch(const RatTile& tile) const {
    int64_t begin = a.table[tile.chunk].begin + tile.skip, n = tile.tokens;
    if (begin + n > shape.tokens) return;
    const int64_t read[] = {at.v, at.g, at.z, at.k, at.q};
    for (int64_t column : read) {
      prefetch_columns(a.proj.at(begin) + column, a.proj.row, n, shape.dim);
    }
    prefetch_columns(a.out.at(begin) + at.z, a.out.row, n, shape.dim);
    prefetch_columns(a.d_out.at(begin) + at.z, a.d_out.row, n, shape.dim);
    const int64_t written[] = {at.v, at.g, at.z};
    for (int64_t column : written) {
      prefetch_columns(a.d_proj.at(begin) + column, a.d_proj.row, n, shape.dim);
    }
  }

  // `dq` and `dk` are this head's rows [tokens][padded] of the tile.
  void run(const RatTile& tile, float* dq, float* dk) {
    n_ = round_up(tile.tokens, W);
    first_ = a.table[tile.chunk].first;
    last_ = a.table[tile.chunk + tile.chunks - 1].slot;
    run_recurrence(shape, plan, a.table, tile, a.proj, a.gate_bias, states, h, keys_, values_, gates_);
    load_tokens(tile);
    local_entries(tile);
    attend(tile);
    write_queries(tile, dq);
    for (int64_t c = tile.chunk + tile.chunks - 1; c >= tile.chunk; --c) reverse_scan(tile, c, dk);
  }

 private:
  template <class Body>
  void for_each_token(const RatTile& tile, Body&& body) {
    int64_t i = 0;
    for (int64_t c = tile.chunk; c < tile.chunk + tile.chunks; ++c) {
      RatSpan span(tile, a.table, c);
      for (int64_t row = span.begin; row < span.end; ++row, ++i) body(i, row, c);
    }
  }

  void turn(float* x, int64_t chunk, float direction) const {
    int64_t half = shape.dim / 2, from = a.table[chunk].position * half;
    if (a.cos) rotate(x, half, a.cos + from, a.sin + from, direction);
  }

  // Queries, dy = z dout, dz', delta and lse.
  void load_tokens(const RatTile& tile) {
    for_each_token(tile, [&](int64_t i, int64_t row, int64_t chunk) {
      const T* x = a.proj.at(row);
      load_row(x + at.q, shape.dim, padded, queries_ + i * padded);
      std::memcpy(rotated_ + i * padded, queries_ + i * padded, static_cast<size_t>(padded) * sizeof(float));
      turn(rotated_ + i * padded, chunk, 1);
      Vec delta = zero();
      for (int64_t c = 0; c < padded; c += W) {
        int64_t lanes = shape.dim - c;
        Vec z = sigmoid(load_lanes(x + at.z + c, lanes)), out = load_lanes(a.out.at(row) + at.z + c, lanes);
        Vec d_out = load_lanes(a.d_out.at(row) + at.z + c, lanes), dy = z * d_out;
        store_lanes(a.d_proj.at(row) + at.z + c, (d_out - dy) * out, lanes);
        store(dy_ + i * padded + c, dy);
        delta = fma(d_out, out, delta);
      }
      tile_.delta[i] = sum(delta);
      tile_.lse[i] = a.lse[row * shape.heads + h];
    });
    size_t rest = static_cast<size_t>((n_ - tile.tokens) * padded) * sizeof(float);
    std::memset(rotated_ + tile.tokens * padded, 0, rest);
    std::memset(dy_ + tile.tokens * padded, 0, rest);
    for (int64_t i = tile.tokens; i < n_; ++i) tile_.delta[i] = 0, tile_.lse[i] = __builtin_inff();
  }

  // The probability of the local entry and the gradient of its score (times scale). Where it is the only entry
  // they are exactly 1 and 0.
  void local_entries(const RatTile& tile) {
    for (int64_t i = 0; i < tile.tokens; ++i) {
      local_[i] = scale * dot_row(queries_ + i * padded, keys_ + i * padded, padded) - tile_.lse[i];
      d_local_[i] = dot_row(dy_ + i * padded, values_ + i * padded, padded) - tile_.delta[i];
    }
    for (int64_t i = tile.tokens; i < n_; ++i) local_[i] = d_local_[i] = 0;
    for (int64_t i = 0; i < n_; i += W) {
      Vec p = exp(load(local_ + i));
      store(local_ + i, p);
      store(d_local_ + i, p * load(d_local_ + i) * splat(scale));
    }
    for_each_token(tile, [&](int64_t i, int64_t, int64_t chunk) {
      if (a.table[chunk].slot == first_) local_[i] = 1, d_local_[i] = 0;
    });
  }

  void attend(const RatTile& tile) {
    std::memset(tile_.dq, 0, static_cast<size_t>(n_ * padded) * sizeof(float));
    if (last_ == first_) return;
    tile_.n = n_;
    tile_.q = pack_q_.pack(n_, rotated_);
    tile_.d_o = pack_d_.pack(n_, dy_);
    int64_t full = a.table[tile.chunk].slot;
    for (int64_t j = first_; j < last_; j += tile_rows) {
      int64_t count = last_ - j < tile_rows ? last_ - j : tile_rows;
      Visible visible;
      if (j + count > full) {
        for_each_token(tile, [&](int64_t i, int64_t, int64_t chunk) {
          lo_[i] = 0, hi_[i] = static_cast<float>(a.table[chunk].slot - j);
        });
        for (int64_t i = tile.tokens; i < n_; ++i) lo_[i] = hi_[i] = 0;
        visible = {lo_, hi_};
      }
      int64_t row = (h * shape.ends + j) * padded;
      tile_.add(count, a.ends_k.at(j, h), a.ends_k.row, a.ends_v.at(j, h), a.ends_v.row, visible, grad.ends_k + row,
                grad.ends_v + row);
    }
  }

  void write_queries(const RatTile& tile, float* dq) {
    for_each_token(tile, [&](int64_t i, int64_t, int64_t chunk) {
      if (last_ > first_) turn(tile_.dq + i * padded, chunk, -1);
      Vec d = splat(d_local_[i]);
      for (int64_t c = 0; c < padded; c += W) {
        store(dq + i * padded + c, fma(d, load(keys_ + i * padded + c), load(tile_.dq + i * padded + c)));
      }
    });
  }

  // The reverse scan over the tokens of one chunk in this tile; dk [tokens of the tile][padded].
  void reverse_scan(const RatTile& tile, int64_t chunk, float* dk) {
    RatSpan span(tile, a.table, chunk);
    int64_t offset = 0;
    for (int64_t c = tile.chunk; c < chunk; ++c) offset += a.table[c].end - a.table[c].begin;
    const RatChunk& entry = a.table[chunk];
    bool ends = span.end == entry.end, begins = span.begin == entry.begin;
    int64_t before = state_before(plan, tile, chunk);
    int64_t end_row = (h * shape.ends + entry.slot) * padded;
    float* carry = plan.has_pieces ? grad.carry + (tile.sequence * shape.heads + h) * 2 * padded : nullptr;
    float* bias = grad.bias + (tile.sequence * shape.heads + h) * padded;
    if (ends) {
      std::memcpy(end_k_, grad.ends_k + end_row, static_cast<size_t>(padded) * sizeof(float));
      turn(end_k_, chunk, -1);
    }
    bool from_final = ends && entry.to >= 0 && a.d_final_k.data;
    bool to_running = begins && entry.from >= 0 && a.d_running_k.data;
    for (int64_t c = 0; c < shape.dim; c += W) {
      int64_t lanes = shape.dim - c;
      Vec next_k = load(ends ? end_k_ + c : carry + c);
      Vec next_v = load(ends ? grad.ends_v + end_row + c : carry + padded + c);
      if (from_final) {
        next_k += load_lanes(a.d_final_k.at(entry.to, h) + c, lanes);
        next_v += load_lanes(a.d_final_v.at(entry.to, h) + c, lanes);
      }
      Vec d_bias = load(bias + c);
      for (int64_t row = span.end - 1; row >= span.begin; --row) {
        int64_t i = (offset + row - span.begin) * padded + c, t = offset + row - span.begin;
        const T* x = a.proj.at(row) + c;
        T* d = a.d_proj.at(row) + c;
        Vec old_k = zero(), old_v = zero();
        if (row > span.begin) {
          old_k = load(keys_ + i - padded), old_v = load(values_ + i - padded);
        } else if (before >= 0) {
          old_k = load(states.k(before, h) + c), old_v = load(states.v(before, h) + c);
        }
        Vec g = load(gates_ + i), rest = splat(1) - g;
        Vec lam = fma(splat(d_local_[t]), load(queries_ + i), next_k);
        Vec mu = fma(splat(local_[t]), load(dy_ + i), next_v);
        Vec d_gate = lam * (old_k - load_lanes(x + at.k, lanes)) + mu * (old_v - load_lanes(x + at.v, lanes));
        d_gate = d_gate * g * rest;
        d_bias += d_gate;
        store(dk + i, rest * lam);
        store_lanes(d + at.v, rest * mu, lanes);
        store_lanes(d + at.g, d_gate, lanes);
        next_k = g * lam;
        next_v = g * mu;
      }
      store(bias + c, d_bias);
      if (!begins) {
        store(carry + c, next_k);
        store(carry + padded + c, next_v);
      } else if (to_running) {
        store_lanes(a.d_running_k.at(entry.from, h) + c, next_k, lanes);
        store_lanes(a.d_running_v.at(entry.from, h) + c, next_v, lanes);
      }
    }
  }

  const RatBackward<T>& a;
  const RatShape& shape;
  const RatPlan& plan;
  const RatStates& states;
  const RatGradients& grad;
  int64_t h;
  RatColumns at;
  Widths<T> w;
  int64_t padded;
  float scale;
  GradientTile<T> tile_;
  QueryPacker<T> pack_q_, pack_d_;
  float *queries_, *rotated_, *dy_, *keys_, *values_, *gates_;  // [tokens][padded]
  float *local_, *d_local_, *lo_, *hi_;                         // [tokens]
  float* end_k_;
  int64_t n_ = 0, first_ = 0, last_ = 0;
};

}  // namespace rattan::kernels::RATTAN_ISA
