// The GPUs of this machine, as far as this build can see them.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace rattan::cli {

struct CudaDevice {
  std::string name;
  int major = 0, minor = 0;  // compute capability
  int64_t memory_bytes = 0;
};

struct CudaReport {
  bool built = false;           // this build has CUDA kernels
  std::string driver, runtime;  // "13.0", "" where unknown
  std::string problem;          // why no device can be used, "" if one can
  std::vector<CudaDevice> devices;
};

CudaReport cuda_report();

// Which kernels and machine code a GPU of this compute capability runs.
std::string cuda_path(int major, int minor);

// Whether train.precision=fp8 and --dtype fp8 work on it.
bool has_fp8_products(int major);

}  // namespace rattan::cli
