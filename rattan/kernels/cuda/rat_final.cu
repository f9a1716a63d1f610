// Forward, after all else: the last running states, where they take the place of those that the chunks start from.
#include "rattan/kernels/cuda/rat_piece.cuh"

namespace rattan::kernels::cuda {

namespace rat_final_file {

// blockIdx.x: a run of chunks, of which few end a sequence; blockIdx.y: head.
template <class T>
__global__ void __launch_bounds__(256) final_kernel(RatForward<T> a) {
  constexpr int E = kChannels<T>;
  const RatShape& shape = a.shape;
  const RatColumns columns(shape);
  const int dim = static_cast<int>(shape.dim);
  const int64_t head = blockIdx.y, own = head * dim, of_group = head % shape.groups * dim;
  const Mine<T> mine(dim);
  float bias2[E];
  load_floats<false>(bias2, a.gate_bias + own + mine.channel, mine);
#pragma unroll
  for (int e = 0; e < E; ++e) bias2[e] *= kLog2e;
  const int64_t first = shape.chunks * blockIdx.x / gridDim.x, last = shape.chunks * (blockIdx.x + 1) / gridDim.x;
  for (int64_t base = first; base < last; base += 32) {
    const int64_t looked = base + threadIdx.x % 32;
    unsigned found = __ballot_sync(kAllLanes, looked < last && a.table[looked].to >= 0);
    for (; found != 0; found &= found - 1) {
      const RatChunk c = a.table[base + __ffs(static_cast<int>(found)) - 1];
      float k[E], v[E];
      load_running(k, a.running_k, c.from, head, mine);
      load_running(v, a.running_v, c.from, head, mine);
#pragma unroll 4
      for (int64_t n = c.begin; n < c.end; ++n) {
        const T* token = at(a.proj, n) + mine.channel;
        float g[E], x[E], y[E];
        unpack<T>(g, load_raw<false>(token + columns.g + own, mine));
        unpack<T>(y, load_raw<false>(token + columns.v + own, mine));
        unpack<T>(x, load_raw<false>(token + columns.k + of_group, mine));
#pragma unroll
        for (int e = 0; e < E; ++e) {
          const float h = closed(g[e], bias2[e]);
          k[e] += h * (x[e] - k[e]);
          v[e] += h * (y[e] - v[e]);
        }
      }
      store_floats<false>(at(a.final_k, c.to, head) + mine.channel, k, mine);
      store_floats<false>(at(a.final_v, c.to, head) + mine.channel, v, mine);
    }
  }
}

}  // namespace rat_final_file

template <class T>
void rat_final(const RatForward<T>& a, cudaStream_t stream) {
  using namespace rat_final_file;
  const RatShape& s = a.shape;
  if (!a.final_k.data || !updates_in_place(a)) return;
  const int64_t runs = blocks_for(s.chunks, blocks_for(s.chunks * s.heads, 4096));
  final_kernel<<<dim3(static_cast<unsigned>(runs), static_cast<unsigned>(s.heads)), rat_threads<T>(s.dim), 0, stream>>>(
      a);
  check_launch("rat_forward (final)");
}

template void rat_final(const RatForward<float>&, cudaStream_t);
template void rat_final(const RatForward<bf16>&, cudaStream_t);

}  // namespace rattan::kernels::cuda
