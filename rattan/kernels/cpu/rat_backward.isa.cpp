// RAT backward: one pass over the tiles from last to first, so that all that later queries send to a chunk's end
// is known when the reverse scan of that chunk begins. Sequences and heads are independent. The tiles are taken
// in rounds of about 2,048 tokens, after each of which dq and dk' are summed over the heads of a group.
#include "rattan/base/parallel.h"
#include "rattan/kernels/cpu/rat_backward_tile.h"
#include "rattan/kernels/cpu/rat_ends.h"
#include "rattan/kernels/rat.h"

namespace rattan::kernels::RATTAN_ISA {

constexpr int64_t round_tokens = 2048;

template <class T>
class RatBackwardRun {
 public:
  explicit RatBackwardRun(const RatBackward<T>& args)
      : a(args), shape(args.shape), plan(args.shape, args.table), padded(round_up(shape.dim, W)), scratch(bytes()) {
    states = {scratch.take<float>(plan.state_count * 2 * shape.heads * padded), shape.heads, padded};
    grad.ends_k = scratch.take<float>(ends_floats());
    grad.ends_v = scratch.take<float>(ends_floats());
    grad.dq = scratch.take<float>(round_floats());
    grad.dk = scratch.take<float>(round_floats());
    grad.bias = scratch.take<float>(sequence_floats());
    grad.carry = scratch.take<float>(2 * sequence_floats());
    offsets = scratch.take<int32_t>(plan.tile_count);
  }

  void run() {
    for (int64_t i = 0; i < plan.padding_count; ++i) {
      std::memset(a.d_proj.at(plan.padding[i]), 0, static_cast<size_t>(shape.width()) * sizeof(T));
    }
    std::memset(grad.bias, 0, static_cast<size_t>(sequence_floats()) * sizeof(float));
    make_states();
    parallel_for(shape.heads, [&](int64_t h) { copy_ends(h, true); });
    for (int64_t end = plan.tile_count; end > 0;) {
      int64_t begin = round_begin(end);
      int64_t first = plan.tiles[begin].sequence, sequences = plan.tiles[end - 1].sequence - first + 1;
      parallel_for(sequences * shape.heads, [&](int64_t task) {
        const RatSequence& s = plan.sequences[first + task / shape.heads];
        int64_t from = s.tile > begin ? s.tile : begin, to = s.tile + s.tiles < end ? s.tile + s.tiles : end;
        run_tiles(from, to, task % shape.heads);
      });
      parallel_for(end - begin, [&](int64_t t) { sum_heads(begin + t); });
      end = begin;
    }
    parallel_for(shape.heads, [&](int64_t h) { copy_ends(h, false); });
    sum_bias();
  }

 private:
  int64_t ends_floats() const { return shape.heads * shape.ends * padded; }
  int64_t round_floats() const { return shape.heads * round_tokens * padded; }
  int64_t sequence_floats() const { return plan.sequence_count * shape.heads * padded; }
  size_t bytes() const {
    return Scratch::size<float>(plan.state_count * 2 * shape.heads * padded) + 2 * Scratch::size<float>(ends_floats()) +
           2 * Scratch::size<float>(round_floats()) + 3 * Scratch::size<float>(sequence_floats()) +
           Scratch::size<float>(padded) + Scratch::size<int32_t>(plan.tile_count);
  }

  void make_states() {
    gather_running(plan, shape, a.table, a.running_k, a.running_v, states);
    if (!plan.has_pieces) return;
    parallel_for(shape.chunks * shape.heads, [&](int64_t task) {
      int64_t j = task / shape.heads;
      if (plan.piece_state[j] < 0) return;
      Scratch work(2 * Scratch::size<float>(padded));
      float* k = work.take<float>(padded);
      float* v = work.take<float>(padded);
      run_chunk(shape, plan, a.table, a.proj, a.gate_bias, states, j, task % shape.heads, k, v);
    });
  }

  // The tiles [begin, end) make one round; overlapping sequences are never in one round.
  int64_t round_begin(int64_t end) {
    int64_t begin = end, tokens = 0;
    while (begin > 0 && tokens + plan.tiles[begin - 1].tokens <= round_tokens) {
      if (plan.sequences_overlap && begin < end && plan.tiles[begin - 1].sequence != plan.tiles[begin].sequence) break;
      --begin;
      offsets[begin] = static_cast<int32_t>(tokens);
      tokens += plan.tiles[begin].tokens;
    }
    return begin;
  }

  void copy_ends(int64_t h, bool in) {
    for (int64_t s = 0; s < plan.sequence_count; ++s) {
      for (int64_t e = plan.sequences[s].first; e < plan.sequences[s].last; ++e) {
        int64_t row = (h * shape.ends + e) * padded;
        if (in) {
          load_row(a.d_ends_k.at(e, h), shape.dim, padded, grad.ends_k + row);
          load_row(a.d_ends_v.at(e, h), shape.dim, padded, grad.ends_v + row);
        } else {
          store_row(grad.ends_k + row, shape.dim, a.d_ends_k.at(e, h));
          store_row(grad.ends_v + row, shape.dim, a.d_ends_v.at(e, h));
        }
      }
    }
  }

  void run_tiles(int64_t begin, int64_t end, int64_t h) {
    Scratch work(RatBackwardTile<T>::bytes(shape.dim));
    RatBackwardTile<T> tile(a, plan, states, grad, h, work);
    tile.prefetch(plan.tiles[end - 1]);
    for (int64_t t = end - 1; t >= begin; --t) {
      if (t > begin) tile.prefetch(plan.tiles[t - 1]);
      int64_t row = (h * round_tokens + offsets[t]) * padded;
      tile.run(plan.tiles[t], grad.dq + row, grad.dk + row);
    }
  }

  void sum_heads(int64_t t) {
    const RatTile& tile = plan.tiles[t];
    int64_t i = offsets[t];
    for (int64_t chunk = tile.chunk; chunk < tile.chunk + tile.chunks; ++chunk) {
      RatSpan span(tile, a.table, chunk);
      for (int64_t row = span.begin; row < span.end; ++row, ++i) {
        for (int64_t g = 0; g < shape.groups; ++g) {
          T* d = a.d_proj.at(row) + 3 * shape.heads * shape.dim + g * shape.dim;
          for (int64_t c = 0; c < shape.dim; c += W) {
            Vec q = zero(), k = zero();
            for (int64_t h = g; h < shape.heads; h += shape.groups) {
              int64_t from = (h * round_tokens + i) * padded + c;
              q += load(grad.dq + from);
              k += load(grad.dk + from);
            }
            store_lanes(d + c, q, shape.dim - c);
            store_lanes(d + shape.groups * shape.dim + c, k, shape.dim - c);
          }
        }
      }
    }
  }

  void sum_bias() {
    for (int64_t h = 0; h < shape.heads; ++h) {
      for (int64_t c = 0; c < shape.dim; c += W) {
        Vec total = zero();
        for (int64_t s = 0; s < plan.sequence_count; ++s) {
          total += load(grad.bias + (s * shape.heads + h) * padded + c);
        }
        store_lanes(a.d_gate_bias + h * shape.dim + c, total, shape.dim - c);
      }
    }
  }

  const RatBackward<T>& a;
  const RatShape& shape;
  RatPlan plan;
  int64_t padded;
  Scratch scratch;
  RatStates states;
  RatGradients grad;
  int32_t* offsets;
};

void rat_backward(const RatBackward<float>& a) { RatBackwardRun<float>(a).run(); }
void rat_backward(const RatBackward<bf16>& a) { RatBackwardRun<bf16>(a).run(); }

}  // namespace rattan::kernels::RATTAN_ISA
