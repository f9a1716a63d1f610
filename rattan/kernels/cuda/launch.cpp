#include "rattan/kernels/cuda/launch.h"

#include <cuda_runtime.h>

#include "rattan/base/error.h"

namespace rattan::kernels::cuda {

namespace launch_file {

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  fail(
      "CUDA: {} failed: {} ({}). An error of earlier asynchronous work can surface here; run with "
      "CUDA_LAUNCH_BLOCKING=1 to find its place.",
      what, cudaGetErrorString(status), cudaGetErrorName(status));
}

int attribute(cudaDeviceAttr name) {
  int device = 0, value = 0;
  check(cudaGetDevice(&device), "a look at the device");
  check(cudaDeviceGetAttribute(&value, name, device), "a look at the device");
  return value;
}

}  // namespace launch_file

void check_launch(const char* kernel) { launch_file::check(cudaGetLastError(), kernel); }

void fill_async(void* data, int value, int64_t bytes, const char* what, void* stream) {
  if (bytes == 0) return;
  launch_file::check(cudaMemsetAsync(data, value, static_cast<size_t>(bytes), static_cast<cudaStream_t>(stream)), what);
}

void zero_async(void* data, int64_t bytes, const char* what, void* stream) { fill_async(data, 0, bytes, what, stream); }

void allow_shared_memory(const void* kernel, int64_t bytes, const char* name) {
  if (bytes <= 48 * 1024) return;
  launch_file::check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
                     name);
}

bool may_start_early(void* stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  launch_file::check(cudaStreamIsCapturing(static_cast<cudaStream_t>(stream), &status), "a look at a stream");
  if (status != cudaStreamCaptureStatusActive) return false;
  return launch_file::attribute(cudaDevAttrComputeCapabilityMajor) >= 9;
}

int multiprocessors() { return launch_file::attribute(cudaDevAttrMultiProcessorCount); }
int64_t block_shared_memory() { return launch_file::attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin); }

void check_dim(const char* kernel, int64_t dim) {
  if (dim > 256) fail("CUDA: {} takes head dimensions up to 256, got {}; use more heads or the CPU", kernel, dim);
}

}  // namespace rattan::kernels::cuda
