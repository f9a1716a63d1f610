// Kernels that start while the one before them still runs (programmatic dependent launch, from compute capability 9.0
// on): the time to launch them, and what they can do without its results, is hidden.
//
// Kernels are launched so only where a graph is recorded. There everything that is made once exists already, so a
// kernel may read weights before wait_for_stream(); all else that it reads or writes comes after. A kernel calls
// release_next() after its own wait: whoever starts then knows that all but its predecessor is done. (A product that
// adds itself to the stream calls it before: few_rows_linear.cu.)
#pragma once
#include <cuda_runtime.h>

#include "rattan/kernels/cuda/launch.h"

namespace rattan::kernels::cuda {

// Until what was launched before is done and its results can be seen.
__device__ inline void wait_for_stream() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// The next kernel may start.
__device__ inline void release_next() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Launches a kernel that calls wait_for_stream() before it touches what earlier ones write. shared: bytes of dynamic
// shared memory.
template <class... Parameters, class... Arguments>
void launch_dependent(const char* name, void (*kernel)(Parameters...), dim3 grid, unsigned threads, unsigned shared,
                      cudaStream_t stream, Arguments&&... arguments) {
  const bool starts_early = may_start_early(stream);
  // Kernels that are to stand side by side on a multiprocessor must agree on how its memory is divided: else it is
  // first emptied.
  if (starts_early) {
    cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
  }
  cudaLaunchAttribute early;
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid, config.blockDim = dim3(threads), config.dynamicSmemBytes = shared, config.stream = stream;
  config.attrs = &early, config.numAttrs = starts_early ? 1 : 0;
  cudaLaunchKernelEx(&config, kernel, static_cast<Arguments&&>(arguments)...);
  check_launch(name);
}

}  // namespace rattan::kernels::cuda
