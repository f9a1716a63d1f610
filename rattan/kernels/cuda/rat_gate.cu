// Backward, before the attention: the gradient through the output gate.
#include <cfloat>

#include "rattan/kernels/cuda/rat_piece.cuh"

namespace rattan::kernels::cuda {

namespace rat_gate_file {

template <class T>
struct Gate {
  RatBackward<T> a;
  ChunkRows<T> dy;
  float* delta;
};

// Where the tokens of one head of a piece lie: the first of them; rows apart.
template <class T>
struct Places {
  const T *z, *d_out, *out;
  T *dy, *dz;
  int z_row, d_out_row, out_row, dy_row, dz_row;
};

template <bool kPairs, bool kFull, class T>
__device__ __forceinline__ void gate_head(Places<T> at, int count, float* part, const Mine<T>& mine) {
  constexpr int E = kChannels<T>;
  unsigned raw_z[kRatPiece], raw_d[kRatPiece], raw_out[kRatPiece];
  load_piece<kPairs, kFull>(raw_z, at.z, at.z_row, count, mine);
  load_piece<kPairs, kFull>(raw_d, at.d_out, at.d_out_row, count, mine);
  load_piece<kPairs, kFull>(raw_out, at.out, at.out_row, count, mine);
  float dots[8];
#pragma unroll
  for (int j = 0; j < kRatPiece; ++j) {
    float dot = 0;
    if (kFull || j < count) {
      float z[E], d[E], y[E];
      unpack<T>(z, raw_z[j]);
      unpack<T>(d, raw_d[j]);
      unpack<T>(y, raw_out[j]);
#pragma unroll
      for (int e = 0; e < E; ++e) {
        // y = out / z; a gate so far closed that 1 / z overflows has out = 0.
        const float inverse = fminf(1.0f + fast_exp2(z[e] * -kLog2e), FLT_MAX), open = fast_reciprocal(inverse);
        z[e] = (1 - open) * d[e] * y[e];
        d[e] *= open;
        y[e] *= inverse;
      }
      const unsigned rounded = pack<T>(d);
      unpack<T>(d, rounded);  // delta belongs to the dy that the attention reads
#pragma unroll
      for (int e = 0; e < E; ++e) dot += d[e] * y[e];
      store_raw<kPairs>(at.dy, rounded, mine);
      store_raw<kPairs>(at.dz, pack<T>(z), mine);
      at.dy += at.dy_row;
      at.dz += at.dz_row;
    }
    if (!mine.active) dot = 0;
    if (j < 8) {
      dots[j] = dot;
    } else {
      dots[j - 8] = fold(dots[j - 8], dot, 8);
    }
  }
  const float sum = fold_eight(dots);
  const int lane = threadIdx.x % 32;
  if (lane < kRatPiece) part[threadIdx.x / 32 * kRatPiece + lane] = sum;
}

// blockIdx.x: chunk and head, the heads of a chunk one after the other, so that whole rows are read at about the same
// time; blockIdx.y: piece.
template <class T, bool kPairs>
__global__ void __launch_bounds__(kMaxThreads<T>, (kPairs ? 640 : 384) / kMaxThreads<T>) gate_kernel(Gate<T> p) {
  __shared__ float parts[kMaxThreads<T> / 32 * kRatPiece];
  const RatShape& shape = p.a.shape;
  const RatColumns columns(shape);
  const int dim = static_cast<int>(shape.dim), warps = static_cast<int>(blockDim.x) / 32;
  const auto heads = static_cast<unsigned>(shape.heads);
  const int64_t chunk = blockIdx.x / heads, head = blockIdx.x % heads;
  const RatChunk c = p.a.table[chunk];
  const Mine<T> mine(dim);
  const int length = c.end - c.begin, step = static_cast<int>(gridDim.y) * kRatPiece;
  const int64_t own = head * dim + mine.channel;
  Places<T> places;
  places.z_row = static_cast<int>(p.a.proj.row), places.d_out_row = static_cast<int>(p.a.d_out.row);
  places.out_row = static_cast<int>(p.a.out.row), places.dy_row = static_cast<int>(p.dy.token);
  places.dz_row = static_cast<int>(p.a.d_proj.row);

  for (int l0 = static_cast<int>(blockIdx.y) * kRatPiece; l0 < length; l0 += step) {
    const int count = min(kRatPiece, length - l0);
    const int64_t n = c.begin + l0;
    places.z = at(p.a.proj, n) + columns.z + own;
    places.d_out = at(p.a.d_out, n) + own;
    places.out = at(p.a.out, n) + own;
    places.dy = at(p.dy, c, chunk, head, l0) + mine.channel;
    places.dz = at(p.a.d_proj, n) + columns.z + own;
    if (count == kRatPiece) {
      gate_head<kPairs, true>(places, count, parts, mine);
    } else {
      gate_head<kPairs, false>(places, count, parts, mine);
    }
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < count) {
      float sum = 0;
      for (int w = 0; w < warps; ++w) sum += parts[w * kRatPiece + threadIdx.x];
      p.delta[(n + threadIdx.x) * shape.heads + head] = sum;
    }
    __syncthreads();
  }
}

}  // namespace rat_gate_file

template <class T>
void rat_gate(const RatBackward<T>& a, const ChunkRows<T>& dy, float* delta, cudaStream_t stream) {
  using namespace rat_gate_file;
  const RatShape& s = a.shape;
  rat_check_rows({a.proj.row, a.d_out.row, a.out.row, dy.token, a.d_proj.row});
  const Gate<T> p{a, dy, delta};
  const bool pairs =
      s.dim % 2 == 0 && paired(a.proj) && paired(a.d_out) && paired(a.out) && paired(dy) && paired(a.d_proj);
  const dim3 grid(static_cast<unsigned>(s.chunks * s.heads), piece_blocks(s));
  with_pairs<T>(pairs, [&](auto together) {
    gate_kernel<T, decltype(together)::value><<<grid, rat_threads<T>(s.dim), 0, stream>>>(p);
  });
  check_launch("rat_backward (gate)");
}

template void rat_gate(const RatBackward<float>&, const ChunkRows<float>&, float*, cudaStream_t);
template void rat_gate(const RatBackward<bf16>&, const ChunkRows<bf16>&, float*, cudaStream_t);

}  // namespace rattan::kernels::cuda
