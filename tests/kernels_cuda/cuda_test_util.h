// What the CUDA kernel tests share: host data with a copy on the device.
#pragma once
#include <cuda_runtime.h>

#include <utility>

#include "tests/kernels/kernel_test_util.h"

namespace rattan::kernels {

inline bool has_gpu() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
}

#define RATTAN_NEEDS_GPU() \
  if (!::rattan::kernels::has_gpu()) GTEST_SKIP() << "no GPU"

inline void expect_success(cudaError_t status, const char* what) {
  ASSERT_EQ(status, cudaSuccess) << what << ": " << cudaGetErrorString(status);
}

// Bytes of device memory. Fresh memory is poisoned with 0xff, a NaN in float and in bf16.
class DeviceMemory {
 public:
  explicit DeviceMemory(int64_t bytes) : bytes_(bytes) {
    if (bytes == 0) return;
    expect_success(cudaMalloc(&data_, static_cast<std::size_t>(bytes)), "cudaMalloc");
    expect_success(cudaMemset(data_, 0xff, static_cast<std::size_t>(bytes)), "cudaMemset");
  }
  ~DeviceMemory() { cudaFree(data_); }
  DeviceMemory(DeviceMemory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  DeviceMemory& operator=(DeviceMemory&&) = delete;

  void push(const void* from) { copy(data_, from, cudaMemcpyHostToDevice); }
  void pull(void* to) const { copy(to, data_, cudaMemcpyDeviceToHost); }
  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  void copy(void* to, const void* from, cudaMemcpyKind kind) const {
    if (bytes_ > 0) expect_success(cudaMemcpy(to, from, static_cast<std::size_t>(bytes_), kind), "cudaMemcpy");
  }
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

template <class T>
class DeviceVector {
 public:
  explicit DeviceVector(std::vector<T> host)
      : host_(std::move(host)), memory_(static_cast<int64_t>(host_.size() * sizeof(T))) {
    memory_.push(host_.data());
  }
  T* data() const { return static_cast<T*>(memory_.data()); }
  // What is on the device now.
  const std::vector<T>& pull() {
    memory_.pull(host_.data());
    return host_;
  }

 private:
  std::vector<T> host_;
  DeviceMemory memory_;
};

// Rows<T> with a copy on the device; the NaN between the rows travels too.
template <class T>
class DeviceRows {
 public:
  DeviceRows(Rows<T> host, int64_t rows)
      : host_(std::move(host)), memory_(rows * host_.stride() * static_cast<int64_t>(sizeof(T))) {
    memory_.push(host_.data());
  }
  DeviceRows(int64_t rows, int64_t dim, int64_t padding = 0) : DeviceRows(Rows<T>(rows, dim, padding), rows) {}

  T* data() const { return static_cast<T*>(memory_.data()); }
  RowsRef<T> ref() const { return {data(), host_.stride()}; }
  RowsRef<const T> view() const { return {data(), host_.stride()}; }
  HeadsRef<T> heads(int64_t head_dim) const { return {data(), host_.stride(), head_dim}; }
  HeadsRef<const T> heads_view(int64_t head_dim) const { return {data(), host_.stride(), head_dim}; }
  const Rows<T>& host() const { return host_; }
  const Rows<T>& pull() {
    memory_.pull(host_.data());
    return host_;
  }

 private:
  Rows<T> host_;
  DeviceMemory memory_;
};

template <class T>
DeviceRows<T> normal_on_device(Rng& rng, int64_t rows, int64_t dim, int64_t padding = 0, double scale = 1) {
  return DeviceRows<T>(Rows<T>::normal(rng, rows, dim, padding, scale), rows);
}

inline bool memory_is_short(int64_t bytes) {
  std::size_t free = 0, total = 0;
  return cudaMemGetInfo(&free, &total) != cudaSuccess || static_cast<int64_t>(free) < bytes;
}

// One block of random data repeated `times` times: what a kernel does to the first block it must do, bit for
// bit, to the last, whose elements lie beyond 2^31. Only the block is held on the host.
template <class T>
class Repeated {
 public:
  // Random inputs.
  Repeated(Rng& rng, int64_t elements, int64_t times, double scale = 1)
      : elements_(elements), times_(times), memory_(elements * times * static_cast<int64_t>(sizeof(T))) {
    std::vector<T> block = from_doubles<T>(random_normal(rng, elements, scale));
    const auto bytes = block.size() * sizeof(T);
    for (int64_t i = 0; i < times; ++i) {
      expect_success(cudaMemcpy(data() + i * elements, i == 0 ? block.data() : data(), bytes,
                                i == 0 ? cudaMemcpyHostToDevice : cudaMemcpyDeviceToDevice),
                     "cudaMemcpy");
    }
  }
  // Outputs, poisoned with NaN.
  Repeated(int64_t elements, int64_t times)
      : elements_(elements), times_(times), memory_(elements * times * static_cast<int64_t>(sizeof(T))) {}

  T* data() const { return static_cast<T*>(memory_.data()); }
  std::vector<T> block(int64_t i) const {
    std::vector<T> out(static_cast<std::size_t>(elements_));
    expect_success(cudaMemcpy(out.data(), data() + i * elements_, out.size() * sizeof(T), cudaMemcpyDeviceToHost),
                   "cudaMemcpy");
    return out;
  }
  void expect_last_is_first(const char* what) const {
    ASSERT_GT(elements_ * times_, int64_t{1} << 31) << what;
    const std::vector<T> first = block(0), last = block(times_ - 1);
    EXPECT_TRUE(same_bits(first, last)) << what;
    for (double x : to_doubles(first)) {
      if (std::isnan(x)) {
        ADD_FAILURE() << what << " was not written";
        return;
      }
    }
  }

 private:
  int64_t elements_, times_;
  DeviceMemory memory_;
};

}  // namespace rattan::kernels
