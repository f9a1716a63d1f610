// Attention over keys and values in 8 bits: every query streams its own keys, in parts of at most
// attention_stream_keys that are tasks of their own and are merged in order.
#include "rattan/base/parallel.h"
#include "rattan/kernels/attention.h"
#include "rattan/kernels/cpu/attention_plan.h"
#include "rattan/kernels/cpu/stream_cached.h"

namespace rattan::kernels::RATTAN_ISA {

template <class T>
class AttentionCachedRun {
 public:
  explicit AttentionCachedRun(const AttentionCached<T>& args)
      : a(args),
        padded(round_up(a.dim, W)),
        floats(round_up(StreamState::floats(a.heads, padded), 16)),
        plan(Scratch::size<int64_t>(a.queries + 1)),
        first(plan.take<int64_t>(a.queries + 1)) {
    first[0] = 0;
    for (int64_t i = 0; i < a.queries; ++i) {
      const int64_t parts = ceil_div(keys_of(i), int64_t{attention_stream_keys});
      first[i + 1] = first[i] + (parts > 1 ? parts : 1);
    }
  }

  void run() {
    const int64_t parts = first[a.queries];
    Scratch partial(Scratch::size<float>(parts * floats));
    float* memory = partial.take<float>(parts * floats);
    parallel_for(parts, [&](int64_t part) {
      int64_t low = 0, high = a.queries - 1;  // the query whose part it is
      while (low < high) {
        const int64_t middle = (low + high + 1) / 2;
        first[middle] <= part ? low = middle : high = middle - 1;
      }
      stream(low, part - first[low], first[low + 1] - first[low], StreamState(memory + part * floats, a.heads));
    });
    for (int64_t i = 0; i < a.queries; ++i) {
      StreamState all(memory + first[i] * floats, a.heads);
      for (int64_t part = first[i] + 1; part < first[i + 1]; ++part)
        all.merge(StreamState(memory + part * floats, a.heads), a.heads, padded);
      finish(i, all);
    }
  }

 private:
  int64_t keys_of(int64_t i) const { return a.end[i] > a.begin[i] ? a.end[i] - a.begin[i] : 0; }

  void stream(int64_t i, int64_t part, int64_t parts, StreamState state) {
    Scratch work(Scratch::size<float>(a.heads * padded));
    float* queries = work.take<float>(a.heads * padded);
    state.clear(a.heads, padded);
    for (int64_t h = 0; h < a.heads; ++h) {
      float* q = queries + h * padded;
      load_row(a.q.at(i, h), a.dim, padded, q);
      for (int64_t c = 0; c < padded; c += W) store(q + c, load(q + c) * splat(a.scale));
    }
    const int64_t n = keys_of(i), begin = a.begin[i];
    stream_cached_keys(begin + n * part / parts, begin + n * (part + 1) / parts, a.k, a.v, a.heads, a.kv_heads, a.dim,
                       queries, state);
  }

  void finish(int64_t i, const StreamState& state) {
    for (int64_t h = 0; h < a.heads; ++h) {
      const Vec factor = splat(state.sum[h] > 0 ? 1 / state.sum[h] : 0);
      T* o = a.o.at(i, h);
      for_lanes(a.dim,
                [&](int64_t c, auto part) { store(o + c, load(state.out + h * padded + c, part) * factor, part); });
    }
  }

  const AttentionCached<T>& a;
  int64_t padded, floats;
  Scratch plan;
  int64_t* first;
};

void attention_cached(const AttentionCached<float>& a) { AttentionCachedRun<float>(a).run(); }
void attention_cached(const AttentionCached<bf16>& a) { AttentionCachedRun<bf16>(a).run(); }

}  // namespace rattan::kernels::RATTAN_ISA
