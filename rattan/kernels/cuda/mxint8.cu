// A warp a block of 32 numbers.
#include "rattan/kernels/cuda/launch.h"
#include "rattan/kernels/cuda/mxint8.cuh"

namespace rattan::kernels::cuda {

namespace mxint8_file {

constexpr int kThreads = 256;

// Which block of 32 a warp has: a row of the call, a head, a channel of the lane.
struct Place {
  int64_t row;
  int head, channel;
};

// f(place) for every block; all lanes of a warp together.
template <class F>
__device__ void each_block(int64_t rows, int heads, int dim, F&& f) {
  const int blocks = (dim + 31) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t warps = int64_t{gridDim.x} * (kThreads / 32), per_row = int64_t{heads} * blocks;
  for (int64_t i = int64_t{blockIdx.x} * (kThreads / 32) + threadIdx.x / 32; i < rows * per_row; i += warps) {
    const int64_t row = i / per_row;
    const int in_row = static_cast<int>(i - row * per_row), head = in_row / blocks;
    f(Place{row, head, (in_row - head * blocks) * 32 + lane});
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) store_kernel(Mxint8Store<T> a) {
  const int dim = static_cast<int>(a.dim);
  each_block(a.rows, static_cast<int>(a.heads), dim, [&](const Place& p) {
    const T* x = at(a.x, a.from ? a.from[p.row] : p.row, p.head);
    mxint8_put<T>(a.y, a.to[p.row], p.head, p.channel, dim, p.channel < dim ? as_float(x[p.channel]) : 0.0f);
  });
}

template <class T>
__global__ void __launch_bounds__(kThreads) load_kernel(Mxint8Load<T> a) {
  const int dim = static_cast<int>(a.dim);
  each_block(a.rows, static_cast<int>(a.heads), dim, [&](const Place& p) {
    if (p.channel >= dim) return;
    const int64_t from = a.from[p.row];
    const float scale = mxint8_scale(at(a.x.exponent, from, p.head)[p.channel / mxint8_block]);
    at(a.y, p.row, p.head)[p.channel] =
        from_float<T>(static_cast<float>(at(a.x.code, from, p.head)[p.channel]) * scale);
  });
}

template <class T>
__global__ void __launch_bounds__(kThreads) round_kernel(Mxint8Round<T> a) {
  const int dim = static_cast<int>(a.dim);
  each_block(a.rows, static_cast<int>(a.heads), dim, [&](const Place& p) {
    T* x = at(a.x, a.at ? a.at[p.row * a.stride] : p.row, p.head) + p.channel;
    const Mxint8Code y = mxint8_encode(p.channel < dim ? as_float(*x) : 0.0f);
    if (p.channel < dim) *x = from_float<T>(static_cast<float>(y.code) * mxint8_scale(y.exponent));
  });
}

template <class Args>
void run(void (*kernel)(Args), const Args& a, const char* name, void* stream) {
  if (a.rows == 0 || a.heads == 0 || a.dim == 0) return;
  const unsigned grid = strided_grid(a.rows * a.heads * mxint8_blocks(a.dim), kThreads / 32);
  kernel<<<grid, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(a);
  check_launch(name);
}

}  // namespace mxint8_file

void mxint8_store(const Mxint8Store<float>& a, void* stream) {
  mxint8_file::run(mxint8_file::store_kernel<float>, a, "mxint8_store", stream);
}
void mxint8_store(const Mxint8Store<bf16>& a, void* stream) {
  mxint8_file::run(mxint8_file::store_kernel<bf16>, a, "mxint8_store", stream);
}
void mxint8_load(const Mxint8Load<float>& a, void* stream) {
  mxint8_file::run(mxint8_file::load_kernel<float>, a, "mxint8_load", stream);
}
void mxint8_load(const Mxint8Load<bf16>& a, void* stream) {
  mxint8_file::run(mxint8_file::load_kernel<bf16>, a, "mxint8_load", stream);
}
void mxint8_round(const Mxint8Round<float>& a, void* stream) {
  mxint8_file::run(mxint8_file::round_kernel<float>, a, "mxint8_round", stream);
}
void mxint8_round(const Mxint8Round<bf16>& a, void* stream) {
  mxint8_file::run(mxint8_file::round_kernel<bf16>, a, "mxint8_round", stream);
}

}  // namespace rattan::kernels::cuda
