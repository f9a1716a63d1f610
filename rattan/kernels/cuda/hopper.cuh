// Hopper's asynchronous instructions, as the attention kernels use them: barriers in shared memory, tensor copies,
// and wgmma, the product of a 64-row tile by a warpgroup (128 threads).
//
// Operand tiles in shared memory are what tensor_map() copies: for each 64 channels, rows of 128 bytes, in the
// 128-byte swizzle, the tile aligned to 1,024 bytes. A tile [rows, channels] serves as operand in two ways: summed
// over its channels, or ("by rows") over its rows.
//
// Accumulators of a 64 x N product: warp w of the warpgroup has the rows 16 w .. 16 w + 15; of each 8 columns, lane t
// holds columns 2 (t mod 4) and one more, of row t / 4 (items 0, 1) and t / 4 + 8 (items 2, 3). Four items a column
// group, so acc[n][i] belongs to columns 8 n ...
#pragma once
#include <cuda.h>

#include "rattan/kernels/cuda/device.cuh"
#include "rattan/kernels/cuda/tile.cuh"

// Code for sm_90a alone can hold these instructions; kernels are empty in code for other GPUs, which never launch them.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define RATTAN_HOPPER_CODE 1
#endif

namespace rattan::kernels::cuda {

struct Barrier {
  uint64_t state;
};

// An M at the first multiple of 1,024 in a block's dynamic shared memory, which has 1,023 bytes more. An offset from
// `memory`, so that the compiler goes on knowing that it is shared.
template <class M>
__device__ M& aligned_memory(uint8_t* memory) {
  return *reinterpret_cast<M*>(memory + (-shared_address(memory) & 1023));
}

__device__ inline void init_barrier(Barrier& b, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&b)), "r"(arrivals));
}
// Makes initialized barriers known to the copy engine.
__device__ inline void fence_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ inline void arrive(Barrier& b) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(&b)) : "memory");
}
// Arrives, and lets the phase wait for `bytes` of copies as well.
__device__ inline void arrive_expecting(Barrier& b, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&b)), "r"(bytes)
               : "memory");
}
// Arrives when this thread's copies so far (copy16_async, copy4_async) are done.
__device__ inline void arrive_after_copies(Barrier& b) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(&b)) : "memory");
}
// Waits until the phase of this parity has ended.
__device__ inline void wait(Barrier& b, unsigned parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra.uni end;\n"
      "bra.uni again;\n"
      "end:\n"
      "}\n" ::"r"(shared_address(&b)),
      "r"(parity)
      : "memory");
}

// 4 bytes from global to shared memory in the background; zero if not `in`.
__device__ inline void copy4_async(void* to, const void* from, bool in) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to)), "l"(from), "r"(in ? 4 : 0)
               : "memory");
}

// One box of a tensor map; coordinates are channel, head, row.
__device__ inline void copy_box(void* to, const CUtensorMap& map, Barrier& b, int channel, int head, int row) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::
          "r"(shared_address(to)),
      "l"(&map), "r"(shared_address(&b)), "r"(channel), "r"(head), "r"(row)
      : "memory");
}
// A tile of R rows and D channels of one head, in boxes of `box` rows.
template <int R, int D, int box = R>
__device__ void copy_tile(bf16* to, const CUtensorMap& map, Barrier& b, int head, int row) {
#pragma unroll
  for (int c = 0; c < D; c += 64) {
#pragma unroll
    for (int r = 0; r < R; r += box) copy_box(to + c * R + r * 64, map, b, c, head, row + r);
  }
}

// One box from shared memory, which the copy engine lays out like copy_box; what lies outside the tensor is left out.
__device__ inline void send_box(const CUtensorMap& map, const bf16* from, int channel, int head, int row) {
  asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(&map),
               "r"(shared_address(from)), "r"(channel), "r"(head), "r"(row)
               : "memory");
}
__device__ inline void commit_sent() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// Waits until what this thread sent and committed has been read from shared memory.
__device__ inline void wait_sent() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }

// Orders this thread's ordinary accesses to shared memory before later ones of wgmma and the copy engine.
__device__ inline void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
// Barrier `id` (1 to 15) of `threads` threads.
__device__ inline void sync_threads(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

template <int count>
__device__ void keep_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(count));
}
template <int count>
__device__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(count));
}

// Before the first wgmma, and after registers that one uses were written.
__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most `pending` groups are not finished.
template <int pending>
__device__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}
// The compiler may not move accesses to these registers across.
template <int N>
__device__ void pin(float (&acc)[N][4]) {
#pragma unroll
  for (int n = 0; n < N; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) asm volatile("" : "+f"(acc[n][i])::"memory");
  }
}

// The low half of an operand's descriptor; the high half is the same for all. A step inside a tile is added to it in
// units of 16 bytes. Computed from lane 0's view, so that the compiler knows it to be the same in the whole warp.
// Operand summed over its channels; `tile` is at its first row and at the first of 64 channels.
__device__ inline unsigned by_channels(const bf16* tile) {
  return __shfl_sync(kAllLanes, shared_address(tile) >> 4 | 1u << 16, 0);
}
// Operand summed over its rows; tiles of R rows.
template <int R>
__device__ unsigned by_rows(const bf16* tile) {
  return __shfl_sync(kAllLanes, shared_address(tile) >> 4 | unsigned{R * 128 >> 4} << 16, 0);
}
// The step to channel c of a tile of R rows, summed over channels, and the step to row r, summed over rows.
template <int R>
__device__ constexpr unsigned channel_step(int c) {
  return static_cast<unsigned>(c / 64 * R * 128 + c % 64 * 2) / 16;
}
__device__ constexpr unsigned row_step(int r) { return static_cast<unsigned>(r) * 128 / 16; }

// In all of these the high half of a descriptor says: 8 rows are 1,024 bytes apart, 128-byte swizzle.
// c[64, 64] = a b (+ c if `add`), 16 summands; a: summed over channels.
template <bool b_by_rows>
__device__ void wgmma(float (&c)[8][4], unsigned a, unsigned b, bool add) {
  asm volatile(
      "{\n.reg .pred p;\n.reg .b64 a, b;\nmov.b64 a, {%32, 1073741888};\nmov.b64 b, {%33, 1073741888};\n"
      "setp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, "
      "%24, %25, %26, %27, %28, %29, %30, %31"
      "}, a, b, p, 1, 1, 0, %35;\n}\n"
      : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3]), "+f"(c[1][0]), "+f"(c[1][1]), "+f"(c[1][2]),
        "+f"(c[1][3]), "+f"(c[2][0]), "+f"(c[2][1]), "+f"(c[2][2]), "+f"(c[2][3]), "+f"(c[3][0]), "+f"(c[3][1]),
        "+f"(c[3][2]), "+f"(c[3][3]), "+f"(c[4][0]), "+f"(c[4][1]), "+f"(c[4][2]), "+f"(c[4][3]), "+f"(c[5][0]),
        "+f"(c[5][1]), "+f"(c[5][2]), "+f"(c[5][3]), "+f"(c[6][0]), "+f"(c[6][1]), "+f"(c[6][2]), "+f"(c[6][3]),
        "+f"(c[7][0]), "+f"(c[7][1]), "+f"(c[7][2]), "+f"(c[7][3])
      : "r"(a), "r"(b), "r"(static_cast<int>(add)), "n"(static_cast<int>(b_by_rows)));
}

// c[64, 64] = a b (+ c if `add`), 16 summands; a: registers laid out like accumulators.
template <bool b_by_rows>
__device__ void wgmma(float (&c)[8][4], const unsigned (&a)[4], unsigned b, bool add) {
  asm volatile(
      "{\n.reg .pred p;\n.reg .b64 b;\nmov.b64 b, {%36, 1073741888};\nsetp.ne.b32 p, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, "
      "%24, %25, %26, %27, %28, %29, %30, %31"
      "}, {%32, %33, %34, %35}, b, p, 1, 1, %38;\n}\n"
      : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3]), "+f"(c[1][0]), "+f"(c[1][1]), "+f"(c[1][2]),
        "+f"(c[1][3]), "+f"(c[2][0]), "+f"(c[2][1]), "+f"(c[2][2]), "+f"(c[2][3]), "+f"(c[3][0]), "+f"(c[3][1]),
        "+f"(c[3][2]), "+f"(c[3][3]), "+f"(c[4][0]), "+f"(c[4][1]), "+f"(c[4][2]), "+f"(c[4][3]), "+f"(c[5][0]),
        "+f"(c[5][1]), "+f"(c[5][2]), "+f"(c[5][3]), "+f"(c[6][0]), "+f"(c[6][1]), "+f"(c[6][2]), "+f"(c[6][3]),
        "+f"(c[7][0]), "+f"(c[7][1]), "+f"(c[7][2]), "+f"(c[7][3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b), "r"(static_cast<int>(add)),
        "n"(static_cast<int>(b_by_rows)));
}

// c[64, 128] = a b (+ c if `add`), 16 summands; a: summed over channels.
template <bool b_by_rows>
__device__ void wgmma(float (&c)[16][4], unsigned a, unsigned b, bool add) {
  asm volatile(
      "{\n.reg .pred p;\n.reg .b64 a, b;\nmov.b64 a, {%64, 1073741888};\nmov.b64 b, {%65, 1073741888};\n"
      "setp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, "
      "%24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, "
      "%46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
      "}, a, b, p, 1, 1, 0, %67;\n}\n"
      : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3]), "+f"(c[1][0]), "+f"(c[1][1]), "+f"(c[1][2]),
        "+f"(c[1][3]), "+f"(c[2][0]), "+f"(c[2][1]), "+f"(c[2][2]), "+f"(c[2][3]), "+f"(c[3][0]), "+f"(c[3][1]),
        "+f"(c[3][2]), "+f"(c[3][3]), "+f"(c[4][0]), "+f"(c[4][1]), "+f"(c[4][2]), "+f"(c[4][3]), "+f"(c[5][0]),
        "+f"(c[5][1]), "+f"(c[5][2]), "+f"(c[5][3]), "+f"(c[6][0]), "+f"(c[6][1]), "+f"(c[6][2]), "+f"(c[6][3]),
        "+f"(c[7][0]), "+f"(c[7][1]), "+f"(c[7][2]), "+f"(c[7][3]), "+f"(c[8][0]), "+f"(c[8][1]), "+f"(c[8][2]),
        "+f"(c[8][3]), "+f"(c[9][0]), "+f"(c[9][1]), "+f"(c[9][2]), "+f"(c[9][3]), "+f"(c[10][0]), "+f"(c[10][1]),
        "+f"(c[10][2]), "+f"(c[10][3]), "+f"(c[11][0]), "+f"(c[11][1]), "+f"(c[11][2]), "+f"(c[11][3]), "+f"(c[12][0]),
        "+f"(c[12][1]), "+f"(c[12][2]), "+f"(c[12][3]), "+f"(c[13][0]), "+f"(c[13][1]), "+f"(c[13][2]), "+f"(c[13][3]),
        "+f"(c[14][0]), "+f"(c[14][1]), "+f"(c[14][2]), "+f"(c[14][3]), "+f"(c[15][0]), "+f"(c[15][1]), "+f"(c[15][2]),
        "+f"(c[15][3])
      : "r"(a), "r"(b), "r"(static_cast<int>(add)), "n"(static_cast<int>(b_by_rows)));
}

// c[64, 128] = a b (+ c if `add`), 16 summands; a: registers laid out like accumulators.
template <bool b_by_rows>
__device__ void wgmma(float (&c)[16][4], const unsigned (&a)[4], unsigned b, bool add) {
  asm volatile(
      "{\n.reg .pred p;\n.reg .b64 b;\nmov.b64 b, {%68, 1073741888};\nsetp.ne.b32 p, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, "
      "%24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, "
      "%46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
      "}, {%64, %65, %66, %67}, b, p, 1, 1, %70;\n}\n"
      : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3]), "+f"(c[1][0]), "+f"(c[1][1]), "+f"(c[1][2]),
        "+f"(c[1][3]), "+f"(c[2][0]), "+f"(c[2][1]), "+f"(c[2][2]), "+f"(c[2][3]), "+f"(c[3][0]), "+f"(c[3][1]),
        "+f"(c[3][2]), "+f"(c[3][3]), "+f"(c[4][0]), "+f"(c[4][1]), "+f"(c[4][2]), "+f"(c[4][3]), "+f"(c[5][0]),
        "+f"(c[5][1]), "+f"(c[5][2]), "+f"(c[5][3]), "+f"(c[6][0]), "+f"(c[6][1]), "+f"(c[6][2]), "+f"(c[6][3]),
        "+f"(c[7][0]), "+f"(c[7][1]), "+f"(c[7][2]), "+f"(c[7][3]), "+f"(c[8][0]), "+f"(c[8][1]), "+f"(c[8][2]),
        "+f"(c[8][3]), "+f"(c[9][0]), "+f"(c[9][1]), "+f"(c[9][2]), "+f"(c[9][3]), "+f"(c[10][0]), "+f"(c[10][1]),
        "+f"(c[10][2]), "+f"(c[10][3]), "+f"(c[11][0]), "+f"(c[11][1]), "+f"(c[11][2]), "+f"(c[11][3]), "+f"(c[12][0]),
        "+f"(c[12][1]), "+f"(c[12][2]), "+f"(c[12][3]), "+f"(c[13][0]), "+f"(c[13][1]), "+f"(c[13][2]), "+f"(c[13][3]),
        "+f"(c[14][0]), "+f"(c[14][1]), "+f"(c[14][2]), "+f"(c[14][3]), "+f"(c[15][0]), "+f"(c[15][1]), "+f"(c[15][2]),
        "+f"(c[15][3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b), "r"(static_cast<int>(add)),
        "n"(static_cast<int>(b_by_rows)));
}

// Stage and parity of the blocks that pass through a ring of buffers.
template <int stages>
struct Turn {
  int stage = 0;
  unsigned parity = 0;
  __device__ void next() {
    if (++stage < stages) return;
    stage = 0;
    parity ^= 1;
  }
};

__device__ inline unsigned pack2(float x, float y) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(x, y);
  return *reinterpret_cast<const unsigned*>(&pair);
}

// Accumulators of 64 x 16 N become the left operand of N products.
template <int N>
__device__ void pack(unsigned (&p)[N][4], const float (&s)[2 * N][4]) {
#pragma unroll
  for (int n = 0; n < N; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) p[n][i] = pack2(s[2 * n + i / 2][i % 2 * 2], s[2 * n + i / 2][i % 2 * 2 + 1]);
  }
}

// Zeroes rows first .. first + 31 of a tile of R rows and D channels whose bit is set in `mask`. Called by a warp;
// the caller fences.
template <int R, int D>
__device__ void zero_rows(bf16* tile, int first, unsigned mask) {
  constexpr int lanes = D / 8;  // a row
  const int lane = threadIdx.x % 32, unit = lane % lanes;
#pragma unroll 4
  for (int r = lane / lanes; r < 32; r += 32 / lanes) {
    if (mask >> r & 1)
      *reinterpret_cast<uint4*>(tile + unit / 8 * 64 * R + (first + r) * 64 + unit % 8 * 8) = uint4{0, 0, 0, 0};
  }
}

}  // namespace rattan::kernels::cuda
