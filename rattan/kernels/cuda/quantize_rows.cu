// A thread takes pieces of 16 elements: loads and stores of 16 bytes, and the row stays in registers between its
// maximum and its rounding, so memory is read once. Short rows share a block, a warp each. Rows that are not of such
// pieces, or longer than a block's registers, are read twice.
#include <cuda_fp8.h>

#include "rattan/kernels/cuda/device.cuh"
#include "rattan/kernels/cuda/launch.h"
#include "rattan/kernels/quantize_rows.h"

namespace rattan::kernels::cuda {

namespace quantize_rows_file {

constexpr int kPiece = 16, kMostWarps = 16, kWarpRows = 4;  // rows of a block where a warp holds one
constexpr int kThreads = 256;                               // of a block that reads its row twice

// fmaxf leaves out NaN.
__device__ float larger(float most, float x) { return fmaxf(most, fabsf(x)); }

struct Scaling {
  float inverse, scale;
};
__device__ Scaling scaling(float most) {
  most = fmaxf(most, quantize_rows_least);
  return {__fdiv_rn(e4m3_most, most), __fdiv_rn(most, e4m3_most)};
}

// Two elements to e4m3, the first in the lower byte; rounded to nearest even, at most 448 in size.
__device__ uint32_t rounded(float a, float b) {
  return __nv_cvt_float2_to_fp8x2(make_float2(a, b), __NV_SATFINITE, __NV_E4M3);
}

// K pieces a thread; a block is one row, or kWarpRows rows of one warp each.
template <class T, int K>
__global__ void __launch_bounds__(kMostWarps * 32) pieces_kernel(QuantizeRows<T> a) {
  constexpr int width = 16 / sizeof(T), parts = kPiece / width;
  __shared__ float shared[kMostWarps];
  const int64_t row = int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
  if (row >= a.rows) return;  // no barrier where a block has several rows
  const T* x = at(a.x, row);
  Pack<T, width> piece[K][parts];
  float most = 0;
#pragma unroll
  for (int k = 0; k < K; ++k) {
    const int64_t column = (int64_t{k} * blockDim.x + threadIdx.x) * kPiece;
#pragma unroll
    for (int p = 0; p < parts; ++p) {
#pragma unroll
      for (int i = 0; i < width; ++i) piece[k][p].item[i] = from_float<T>(0.0f);
      if (column < a.dim) piece[k][p] = load_constant<width>(x + column + p * width);
    }
  }
#pragma unroll
  for (int k = 0; k < K; ++k) {
#pragma unroll
    for (int p = 0; p < parts; ++p) {
#pragma unroll
      for (int i = 0; i < width; ++i) most = larger(most, as_float(piece[k][p].item[i]));
    }
  }
  most = warp_max(most);
  const int warps = blockDim.x / 32;
  if (warps > 1) {
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = most;
    __syncthreads();
    for (int w = 0; w < warps; ++w) most = fmaxf(most, shared[w]);
  }
  const Scaling s = scaling(most);
  if (threadIdx.x == 0) a.scale[row] = s.scale;
  e4m3* y = at(a.y, row);
#pragma unroll
  for (int k = 0; k < K; ++k) {
    const int64_t column = (int64_t{k} * blockDim.x + threadIdx.x) * kPiece;
    if (column >= a.dim) continue;
    uint32_t word[4];
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      auto element = [&](int i) { return as_float(piece[k][i / width].item[i % width]) * s.inverse; };
      word[w] = rounded(element(4 * w), element(4 * w + 1)) | rounded(element(4 * w + 2), element(4 * w + 3)) << 16;
    }
    *reinterpret_cast<uint4*>(y + column) = make_uint4(word[0], word[1], word[2], word[3]);
  }
}

template <class T>
__global__ void any_kernel(QuantizeRows<T> a) {
  __shared__ float shared[32];
  for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
    const T* x = at(a.x, row);
    float most = 0;
    for (int64_t c = threadIdx.x; c < a.dim; c += kThreads) most = larger(most, as_float(x[c]));
    const Scaling s = scaling(block_max(most, shared));
    if (threadIdx.x == 0) a.scale[row] = s.scale;
    e4m3* y = at(a.y, row);
    for (int64_t c = threadIdx.x; c < a.dim; c += kThreads)
      y[c] = {static_cast<uint8_t>(rounded(as_float(x[c]) * s.inverse, 0.0f))};
  }
}

template <class T, int K>
void launch_pieces(const QuantizeRows<T>& a, int64_t pieces, cudaStream_t stream) {
  const int64_t warps = blocks_for(blocks_for(pieces, K), 32);
  const dim3 threads(static_cast<unsigned>(warps * 32), warps == 1 ? kWarpRows : 1);
  pieces_kernel<T, K><<<static_cast<unsigned>(blocks_for(a.rows, threads.y)), threads, 0, stream>>>(a);
}

template <class T>
void run(const QuantizeRows<T>& a, void* stream) {
  if (a.rows == 0) return;
  constexpr int64_t most = (int64_t{1} << 31) - 1, block = kMostWarps * 32;
  const auto s = static_cast<cudaStream_t>(stream);
  const int64_t pieces = a.dim / kPiece;
  const bool whole = a.dim > 0 && a.dim % kPiece == 0 && a.rows <= most && aligned16(a.x) && aligned16(a.y);
  if (whole && pieces <= block) {
    launch_pieces<T, 1>(a, pieces, s);
  } else if (whole && pieces <= 2 * block) {
    launch_pieces<T, 2>(a, pieces, s);
  } else {
    any_kernel<<<static_cast<unsigned>(a.rows < most ? a.rows : most), kThreads, 0, s>>>(a);
  }
  check_launch("quantize_rows");
}

}  // namespace quantize_rows_file

void quantize_rows(const QuantizeRows<float>& a, void* stream) { quantize_rows_file::run(a, stream); }
void quantize_rows(const QuantizeRows<bf16>& a, void* stream) { quantize_rows_file::run(a, stream); }

bool has_fp8_products(int device) {
  int major = 0;
  return cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess && major >= 9;
}

}  // namespace rattan::kernels::cuda
