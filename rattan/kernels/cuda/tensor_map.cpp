#include "rattan/kernels/cuda/tensor_map.h"

#include <cuda_runtime.h>

#include <algorithm>

#include "rattan/base/error.h"

namespace rattan::kernels::cuda {

namespace tensor_map_file {

using Encode = decltype(&cuTensorMapEncodeTiled);

// The driver's function by way of the runtime, so that nothing links the driver's library.
Encode encoder() {
  static const Encode found = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result{};
#if CUDART_VERSION >= 12050
    const auto status =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &result);
#else
    const auto status = cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &result);
#endif
    if (status != cudaSuccess || result != cudaDriverEntryPointSuccess)
      fail("CUDA: the driver has no cuTensorMapEncodeTiled; Hopper kernels need a driver of CUDA 12 or later");
    return reinterpret_cast<Encode>(function);
  }();
  return found;
}

CUtensorMap encode(CUtensorMapDataType type, const void* data, int64_t element_bytes, int64_t row, int64_t head,
                   int64_t rows, int64_t heads, int64_t dim, int box_rows) {
  CUtensorMap map{};
  const cuuint64_t size[] = {static_cast<cuuint64_t>(dim), static_cast<cuuint64_t>(heads),
                             static_cast<cuuint64_t>(rows)};
  // A dimension of one element has no stride of its own; the engine still wants a multiple of 16 bytes.
  const auto bytes = [&](int64_t stride) {
    return static_cast<cuuint64_t>(std::max<int64_t>(stride * element_bytes, 16));
  };
  const cuuint64_t strides[] = {bytes(head), bytes(row)};
  const cuuint32_t box[] = {static_cast<cuuint32_t>(128 / element_bytes), 1, static_cast<cuuint32_t>(box_rows)},
                   steps[] = {1, 1, 1};
  const CUresult status =
      encoder()(&map, type, 3, const_cast<void*>(data), size, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS)
    fail("CUDA: no tensor map for {} rows, {} heads of {} with strides {} and {} (driver error {})", rows, heads, dim,
         row, head, static_cast<int>(status));
  return map;
}

}  // namespace tensor_map_file

bool is_hopper() {
  int device = 0, major = 0, minor = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return false;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  return major == 9 && minor == 0;
}

CUtensorMap tensor_map(const HeadsRef<const bf16>& t, int64_t rows, int64_t heads, int64_t dim, int box_rows) {
  return tensor_map_file::encode(CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, t.data, 2, t.row, t.head, rows, heads, dim,
                                 box_rows);
}
CUtensorMap tensor_map(const HeadsRef<float>& t, int64_t rows, int64_t heads, int64_t dim, int box_rows) {
  return tensor_map_file::encode(CU_TENSOR_MAP_DATA_TYPE_FLOAT32, t.data, 4, t.row, t.head, rows, heads, dim, box_rows);
}

}  // namespace rattan::kernels::cuda
