#include "rattan/cli/cuda_devices.h"

#include <fmt/core.h>

#ifdef RATTAN_WITH_CUDA
#include <cuda_runtime_api.h>
#endif

namespace rattan::cli {

std::string cuda_path(int major, int minor) {
  if (major < 8) return "unsupported: the kernels need compute capability 8.0 (A100) or later";
  if (major == 8) return "portable kernels (mma.sync), code for sm_80";
  if (major == 9 && minor == 0) return "Hopper kernels (wgmma), code for sm_90a";
  return "portable kernels (mma.sync), code for sm_80, translated by the driver at the first run";
}

bool has_fp8_products(int major) { return major >= 9; }

#ifdef RATTAN_WITH_CUDA
CudaReport cuda_report() {
  auto dotted = [](int version) { return fmt::format("{}.{}", version / 1000, version % 1000 / 10); };
  CudaReport report{.built = true, .driver = "", .runtime = "", .problem = "", .devices = {}};
  int version = 0, count = 0;
  if (cudaDriverGetVersion(&version) == cudaSuccess && version > 0) report.driver = dotted(version);
  if (cudaRuntimeGetVersion(&version) == cudaSuccess) report.runtime = dotted(version);
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (report.driver.empty()) {
    report.problem = "there is no NVIDIA driver; install the one of your GPU";
  } else if (error != cudaSuccess) {
    report.problem = cudaGetErrorString(error);
  } else if (count == 0) {
    report.problem = "the driver shows no GPU (is CUDA_VISIBLE_DEVICES empty?)";
  }
  for (int i = 0; error == cudaSuccess && i < count; ++i) {
    cudaDeviceProp properties;
    if (cudaGetDeviceProperties(&properties, i) != cudaSuccess) continue;
    report.devices.push_back(
        {properties.name, properties.major, properties.minor, static_cast<int64_t>(properties.totalGlobalMem)});
  }
  return report;
}
#else
CudaReport cuda_report() {
  return {
      .built = false,
      .driver = "",
      .runtime = "",
      .problem =
          "this rattan was built without CUDA kernels; `./dev cuda` builds them (needs nvcc and a CUDA build of torch)",
      .devices = {}};
}
#endif

}  // namespace rattan::cli
