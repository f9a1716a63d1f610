// Backward, after the attention: the local entries, the recurrence again and its reverse scan.
//
// A block takes a run of chunks and the heads of a group (or a slice of them), one after the other. The forward walk
// over a piece keeps the running keys, the distances of the values from the running ones and the gates in registers;
// the reverse scan consumes them and adds dk' and the local dq of the head to sums in shared memory, each thread to
// its own. A chunk of several pieces is walked through first, to leave the states at the starts of its pieces in
// scratch; what flows back from a piece is kept where the state of the chunk's last piece was.
#include <cmath>

#include "rattan/kernels/cuda/rat_chunk_piece.cuh"

namespace rattan::kernels::cuda {

namespace rat_chunks_file {

constexpr int64_t kRuns = 4096;  // at most

// Heads a slice, at most: what lets a block do with the 99 KB of shared memory that every GPU since sm_80 has.
int64_t most_heads(const RatShape& s) { return s.dim > 128 ? 4 : 32; }

// The heads of a group are cut into slices where they are many, or the chunks too few to fill a device.
int64_t slices(const RatShape& s) {
  const int64_t heads = blocks_for(s.heads, s.groups), units = s.chunks * s.groups;
  const int64_t filling = units > 0 ? blocks_for(512, units) : 1, fewest = blocks_for(heads, most_heads(s));
  const int64_t wanted = filling < 4 ? filling : 4;
  return blocks_for(heads, blocks_for(heads, wanted > fewest ? wanted : fewest));
}
int64_t slice_heads(const RatShape& s) { return blocks_for(blocks_for(s.heads, s.groups), slices(s)); }
int64_t runs(const RatShape& s) { return s.chunks < kRuns ? s.chunks : kRuns; }

template <class T, bool kVector, int kThreads>
__global__ void __launch_bounds__(kThreads, kVector ? 256 / kThreads : 1) chunks_kernel(Chunks<T> p) {
  constexpr int E = kChannels<T>;
  extern __shared__ __align__(16) char memory[];
  const RatColumns columns(p.a.shape);
  Block<T> b(p);
  if (b.heads == 0) return;
  const Shared<T, kThreads> shared(memory);
  const Copier<T, kVector, Shared<T, kThreads>::kWide> copier(b.dim);
  const int threads = static_cast<int>(blockDim.x), lane = threadIdx.x % 32;
  const int row = static_cast<int>(p.a.proj.row), dy_row = static_cast<int>(p.dy.token);
  const float scale = rsqrtf(static_cast<float>(b.dim));
  const int64_t run = blockIdx.x / b.groups, run_count = gridDim.x / b.groups;
  for (int i = 0; i < b.heads; ++i) {
#pragma unroll
    for (int e = 0; e < E; ++e) shared.d_bias[i * threads * E + e] = 0;
  }
  clear_beyond<Shared<T, kThreads>::kWide>(shared.streams, 3 * kRatPiece, b.mine);
  Inputs<T> next;
  Rotation<T> rotation;
  bool fetched = false;  // the first head of this chunk was loaded while the block worked on the chunk before
  const auto fetch = [&](const RatChunk& c, int64_t chunk, int l0, int last, int i) {
    const int64_t own = b.head(i) * b.dim;
    const T* token = at(p.a.proj, c.begin + l0) + own;
    const int count = min(kRatPiece, c.end - c.begin - l0);
    copier.copy(shared.rows(0), token + columns.g, row, count, b.mine);
    copier.copy(shared.rows(1), token + columns.v, row, count, b.mine);
    copier.copy(shared.rows(2), at(p.dy, c, chunk, b.head(i), l0), dy_row, count, b.mine);
    next.template load<kVector>(p, b, c, rotation, i, l0, last);
  };
  int turn = 0;
  const int64_t last_chunk = p.a.shape.chunks * (run + 1) / run_count;
  for (b.chunk = p.a.shape.chunks * run / run_count; b.chunk < last_chunk; ++b.chunk) {
    b.c = p.a.table[b.chunk];
    if (b.chunk + 1 < last_chunk) asm volatile("prefetch.global.L1 [%0];" ::"l"(p.a.table + b.chunk + 1));
    const int length = b.c.end - b.c.begin, last = (length - 1) / kRatPiece * kRatPiece;  // start of the last piece
    if (last > 0) {
      for (int i = 0; i < b.heads; ++i) walk<kVector>(p, columns, b, i);
    }
    const bool alone = b.c.first >= b.c.slot;
    if (!fetched) {
      rotation = Rotation<T>(p.a.cos, p.a.sin, b.c.position, b.dim, true, b.mine);
      fetch(b.c, b.chunk, last, last, 0);
    }
    fetched = false;
    for (int l0 = last; l0 >= 0; l0 -= kRatPiece) {
      const int count = min(kRatPiece, length - l0);
      const int64_t n = b.c.begin + l0;
      if (count == kRatPiece) {
        begin_piece<kVector, true>(p, columns, shared, b, rotation, l0, count);
      } else {
        begin_piece<kVector, false>(p, columns, shared, b, rotation, l0, count);
      }
      for (int i = 0; i < b.heads; ++i, turn ^= 1) {
        Inputs<T> in = next;
        if (l0 == last) in.finish_flow(p, b, rotation, i);
        Walked<T> walked;
        copier.wait();
        __syncthreads();
        const float2 sums = count == kRatPiece ? forth<true>(walked, shared, in, count, turn)
                                               : forth<false>(walked, shared, in, count, turn);
        const bool same = i + 1 < b.heads;  // the next head belongs to this piece
        if (same || l0 > 0) {
          fetch(b.c, b.chunk, same ? l0 : l0 - kRatPiece, last, same ? i + 1 : 0);
        } else if (b.chunk + 1 < last_chunk) {
          const RatChunk c = p.a.table[b.chunk + 1];
          fetched = c.end - c.begin <= kRatPiece;  // longer ones are walked through first
          if (fetched) {
            rotation = Rotation<T>(p.a.cos, p.a.sin, c.position, b.dim, true, b.mine);
            fetch(c, b.chunk + 1, 0, 0, 0);
          }
        }
        const bool there = lane % kRatPiece < count;
        const float probability = there ? expf(sums.x * scale - in.lse) : 0.0f;
        // A softmax over the local entry alone has no gradient, exactly; delta from a rounded y would give some.
        const float d_score = alone || !there ? 0.0f : probability * (sums.y - in.delta) * scale;
        if (lane < kRatPiece) shared.weights[lane] = make_float2(probability, d_score);
        __syncwarp();
        float d_bias[E] = {};
        T* out = at(p.a.d_proj, n) + b.own(i);
        const int out_row = static_cast<int>(p.a.d_proj.row);
        if (count == kRatPiece) {
          back<kVector, true>(walked, shared, in, count, d_bias, out + columns.v, out + columns.g, out_row, b.mine);
        } else {
          back<kVector, false>(walked, shared, in, count, d_bias, out + columns.v, out + columns.g, out_row, b.mine);
        }
        __syncwarp();  // the weights are read
#pragma unroll
        for (int e = 0; e < E; ++e) shared.d_bias[i * threads * E + e] += d_bias[e];
        if (l0 > 0) {
          float* flows = state_row(p, b, b.c.begin + last, i);
          store_floats<kVector>(flows, in.flow_k, b.mine);
          store_floats<kVector>(flows + b.width, in.flow_v, b.mine);
          if (b.heads == 1) {  // then `next` was loaded before
#pragma unroll
            for (int e = 0; e < E; ++e) {
              next.flow_k[e] = in.flow_k[e];
              next.flow_v[e] = in.flow_v[e];
            }
          }
        } else if (p.a.d_running_k.data && b.c.from >= 0) {
          store_floats<false>(at(p.a.d_running_k, b.c.from, b.head(i)) + b.mine.channel, in.flow_k, b.mine);
          store_floats<false>(at(p.a.d_running_v, b.c.from, b.head(i)) + b.mine.channel, in.flow_v, b.mine);
        }
      }
      end_piece<kVector>(p, columns, shared, b, l0, count);
    }
  }
  for (int i = 0; i < b.heads; ++i) {
    float d_bias[E];
#pragma unroll
    for (int e = 0; e < E; ++e) d_bias[e] = shared.d_bias[i * threads * E + e];
    store_floats<kVector>(p.d_bias + run * b.width + b.own(i), d_bias, b.mine);
  }
}

// The sums over slices. blockIdx.x: chunk; a block takes pieces of it.
template <class T>
__global__ void __launch_bounds__(256) slices_kernel(Chunks<T> p, int slices) {
  constexpr int E = kChannels<T>;
  const RatShape& shape = p.a.shape;
  const RatColumns columns(shape);
  const int64_t chunk = blockIdx.x, dim = shape.dim, width = shape.groups * dim;
  const RatChunk c = p.a.table[chunk];
  const Mine<T> mine(static_cast<int>(dim));
  const Rotation<T> rotation(p.a.cos, p.a.sin, c.position, static_cast<int>(dim), true, mine);
  for (int64_t l = blockIdx.y; l < c.end - c.begin; l += gridDim.y) {
    for (int64_t group = 0; group < shape.groups; ++group) {
      float dk[E] = {}, dq[E], x[E];
      const float* far = at(p.dq, c, chunk, group, l);
      load_floats<false>(dq, far + mine.channel, mine);
      rotation.template load_partners<false>(x, far);
      rotation.apply(dq, x);
      for (int64_t s = 0; s < slices && group + s * p.heads * shape.groups < shape.heads; ++s) {
        const float* from = p.sums + (s * shape.tokens + c.begin + l) * 2 * width + group * dim + mine.channel;
        load_floats<false>(x, from, mine);
#pragma unroll
        for (int e = 0; e < E; ++e) dk[e] += x[e];
        load_floats<false>(x, from + width, mine);
#pragma unroll
        for (int e = 0; e < E; ++e) dq[e] += x[e];
      }
      T* to = at(p.a.d_proj, c.begin + l) + group * dim + mine.channel;
      store_raw<false>(to + columns.k, pack<T>(dk), mine);
      store_raw<false>(to + columns.q, pack<T>(dq), mine);
    }
  }
}

}  // namespace rat_chunks_file

RatChunksScratch::RatChunksScratch(Scratch& scratch, const RatShape& s) {
  using namespace rat_chunks_file;
  const int64_t width = s.heads * s.dim, slice_count = slices(s);
  states = scratch.take<float>(s.max_chunk > kRatPiece ? (s.tokens / kRatPiece + 1) * 2 * width : 0);
  d_bias = scratch.take<float>(runs(s) * width);
  sums = scratch.take<float>(slice_count > 1 ? slice_count * s.tokens * 2 * s.groups * s.dim : 0);
}

template <class T>
void rat_chunks(const RatBackward<T>& a, const ChunkRows<const T>& dy, const ChunkRows<const float>& dq,
                const float* delta, const RatChunksScratch& scratch, cudaStream_t stream) {
  using namespace rat_chunks_file;
  const RatShape& s = a.shape;
  rat_check_rows({a.proj.row, dy.token, a.d_proj.row});
  const int64_t slice_count = slices(s), heads = slice_heads(s);
  const Chunks<T> p{a,
                    dy,
                    dq,
                    delta,
                    scratch.states,
                    scratch.d_bias,
                    slice_count > 1 ? scratch.sums : nullptr,
                    static_cast<int>(heads)};
  const bool vector = vector_rows(s.dim, a.proj) && aligned16(dy.data, dy.begin, dy.chunk) &&
                      aligned16(dy.data, dy.head, dy.token) && paired(a.d_proj) && paired(a.gate_bias) &&
                      paired(a.d_ends_k) && paired(a.d_ends_v) && paired(dq);
  const int threads = rat_threads<T>(s.dim);
  const dim3 grid(static_cast<unsigned>(runs(s) * s.groups), static_cast<unsigned>(slice_count));
  with_pairs<T>(vector, [&](auto together) {
    constexpr bool kVector = decltype(together)::value;
    constexpr int kMost = kMaxThreads<T>, kFew = kMost / 2;
    const bool few = threads <= kFew;
    const int64_t bytes = few ? Shared<T, kFew>::bytes(p.heads, threads) : Shared<T, kMost>::bytes(p.heads, threads);
    const auto kernel = few ? chunks_kernel<T, kVector, kFew> : chunks_kernel<T, kVector, kMost>;
    use_shared_memory(kernel, bytes, "rat_backward (chunks)");
    kernel<<<grid, threads, static_cast<std::size_t>(bytes), stream>>>(p);
  });
  check_launch("rat_backward (chunks)");
  if (slice_count > 1) {
    const int64_t along = s.max_chunk < 1024 ? s.max_chunk : 1024;
    const dim3 blocks(static_cast<unsigned>(s.chunks), static_cast<unsigned>(along));
    slices_kernel<<<blocks, threads, 0, stream>>>(p, static_cast<int>(slice_count));
    check_launch("rat_backward (slices)");
  }
  column_sum(scratch.d_bias, runs(s), s.heads * s.dim, a.d_gate_bias, stream);
}

template void rat_chunks(const RatBackward<float>&, const ChunkRows<const float>&, const ChunkRows<const float>&,
                         const float*, const RatChunksScratch&, cudaStream_t);
template void rat_chunks(const RatBackward<bf16>&, const ChunkRows<const bf16>&, const ChunkRows<const float>&,
                         const float*, const RatChunksScratch&, cudaStream_t);

}  // namespace rattan::kernels::cuda
