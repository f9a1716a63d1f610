// The device under a benchmark: waiting for it, its caches, its memory, its clock.
#pragma once
#include <ATen/core/Tensor.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace rattan::bench {

// Waits until the device has done what it was given; nothing to do on a CPU.
void synchronize(at::Device device);

// Fills a GPU's second-level cache with other data; does nothing on a CPU.
void flush_caches(at::Device device);

std::string device_name(at::Device device);  // "" for a CPU

// Bytes of tensors on a GPU, now and at most since the last reset; nothing on a CPU.
struct DeviceMemory {
  int64_t now = 0, peak = 0;
};
std::optional<DeviceMemory> device_memory(at::Device device);
void reset_peak_memory(at::Device device);
// Gives back what torch keeps of freed tensors; a recording's memory, too, once the recording is gone.
void release_cached_memory(at::Device device);
int64_t total_memory(at::Device device);  // of a GPU, 0 for a CPU

// Samples the multiprocessors' clock while subjects run, through the driver's management library where there is
// one. Without it, or on a CPU, there are no samples.
class ClockSampler {
 public:
  ClockSampler(at::Device device, size_t subjects);
  ~ClockSampler();
  void watch(size_t subject) { watched_ = static_cast<int64_t>(subject); }
  void rest() { watched_ = -1; }
  std::optional<double> median_mhz(size_t subject);  // stops the sampling

 private:
  struct Library;
  void stop();
  std::unique_ptr<Library> library_;
  std::vector<std::vector<unsigned>> samples_;
  std::atomic<int64_t> watched_{-1};
  std::atomic<bool> done_{false};
  std::thread thread_;
};

}  // namespace rattan::bench
