#include "rattan/bench/device.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <chrono>

#ifdef RATTAN_WITH_CUDA
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#endif

namespace rattan::bench {

#ifdef RATTAN_WITH_CUDA
namespace device_file {

constexpr int64_t more_than_a_cache = 256 << 20;
constexpr auto sampling_interval = std::chrono::milliseconds(2);
constexpr unsigned multiprocessor_clock = 1;  // NVML_CLOCK_SM

int index_of(at::Device device) {
  return device.has_index() ? device.index() : static_cast<int>(c10::cuda::current_device());
}

}  // namespace device_file

// libnvidia-ml, the part that is used; its interface is stable.
struct ClockSampler::Library {
  void* handle = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
  int (*init)() = nullptr;
  int (*find)(const char*, void**) = nullptr;
  int (*clock)(void*, unsigned, unsigned*) = nullptr;
  void* gpu = nullptr;

  template <class F>
  void load(F& f, const char* name) {
    f = handle ? reinterpret_cast<F>(dlsym(handle, name)) : nullptr;
  }
  explicit Library(int index) {
    load(init, "nvmlInit_v2"), load(find, "nvmlDeviceGetHandleByPciBusId_v2"), load(clock, "nvmlDeviceGetClockInfo");
    char bus[32] = "";
    if (!init || !find || !clock || init() != 0) return;
    if (cudaDeviceGetPCIBusId(bus, sizeof(bus), index) != cudaSuccess || find(bus, &gpu) != 0) gpu = nullptr;
  }
  ~Library() {
    if (handle) dlclose(handle);
  }
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;
};

void synchronize(at::Device device) {
  if (!device.is_cuda()) return;
  c10::cuda::CUDAGuard guard(device);
  c10::cuda::device_synchronize();
}

void flush_caches(at::Device device) {
  if (!device.is_cuda()) return;
  at::empty({device_file::more_than_a_cache}, at::TensorOptions().dtype(at::kByte).device(device)).zero_();
}

std::string device_name(at::Device device) {
  cudaDeviceProp properties;
  if (!device.is_cuda() || cudaGetDeviceProperties(&properties, device_file::index_of(device)) != cudaSuccess)
    return "";
  return properties.name;
}

std::optional<DeviceMemory> device_memory(at::Device device) {
  if (!device.is_cuda()) return std::nullopt;
  const auto stats =
      c10::cuda::CUDACachingAllocator::getDeviceStats(static_cast<c10::DeviceIndex>(device_file::index_of(device)));
  const auto& all = stats.allocated_bytes[0];  // of every pool together
  return DeviceMemory{all.current, all.peak};
}

void reset_peak_memory(at::Device device) {
  if (!device.is_cuda()) return;
  c10::cuda::CUDACachingAllocator::resetPeakStats(static_cast<c10::DeviceIndex>(device_file::index_of(device)));
}

void release_cached_memory(at::Device device) {
  if (!device.is_cuda()) return;
  c10::cuda::CUDAGuard guard(device);
  c10::cuda::CUDACachingAllocator::emptyCache();
}

int64_t total_memory(at::Device device) {
  cudaDeviceProp properties;
  if (!device.is_cuda() || cudaGetDeviceProperties(&properties, device_file::index_of(device)) != cudaSuccess) return 0;
  return static_cast<int64_t>(properties.totalGlobalMem);
}

ClockSampler::ClockSampler(at::Device device, size_t subjects) : samples_(subjects) {
  if (!device.is_cuda()) return;
  library_ = std::make_unique<Library>(device_file::index_of(device));
  if (!library_->gpu) return;
  thread_ = std::thread([this] {
    while (!done_) {
      const int64_t subject = watched_;
      unsigned mhz = 0;
      const bool read = subject >= 0 && library_->clock(library_->gpu, device_file::multiprocessor_clock, &mhz) == 0;
      if (read && subject == watched_) samples_[subject].push_back(mhz);
      std::this_thread::sleep_for(device_file::sampling_interval);
    }
  });
}
#else
struct ClockSampler::Library {};
void synchronize(at::Device) {}
void flush_caches(at::Device) {}
std::string device_name(at::Device) { return ""; }
std::optional<DeviceMemory> device_memory(at::Device) { return std::nullopt; }
void reset_peak_memory(at::Device) {}
void release_cached_memory(at::Device) {}
int64_t total_memory(at::Device) { return 0; }
ClockSampler::ClockSampler(at::Device, size_t subjects) : samples_(subjects) {}
#endif

ClockSampler::~ClockSampler() { stop(); }

void ClockSampler::stop() {
  done_ = true;
  if (thread_.joinable()) thread_.join();
}

std::optional<double> ClockSampler::median_mhz(size_t subject) {
  stop();
  std::vector<unsigned>& mhz = samples_[subject];
  if (mhz.empty()) return std::nullopt;
  std::nth_element(mhz.begin(), mhz.begin() + static_cast<int64_t>(mhz.size() / 2), mhz.end());
  return mhz[mhz.size() / 2];
}

}  // namespace rattan::bench
