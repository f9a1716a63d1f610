// What the kernel tests share: seeded inputs, outputs poisoned with NaN, errors relative to rms, and loops over
// instruction sets.
#pragma once
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "rattan/base/bf16.h"
#include "rattan/base/parallel.h"
#include "rattan/base/random.h"
#include "rattan/kernels/cpu/isa.h"
#include "rattan/kernels/tensor_ref.h"

namespace rattan::kernels {

template <class T>
T from_double(double x) {
  if constexpr (std::is_same_v<T, bf16>) {
    return to_bf16(static_cast<float>(x));
  } else {
    return static_cast<T>(x);
  }
}

inline double to_double(bf16 x) { return to_float(x); }
inline double to_double(float x) { return x; }

template <class T>
std::vector<double> to_doubles(const std::vector<T>& values) {
  std::vector<double> out(values.size());
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = to_double(values[i]);
  return out;
}

template <class T>
std::vector<T> from_doubles(const std::vector<double>& values) {
  std::vector<T> out(values.size());
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = from_double<T>(values[i]);
  return out;
}

inline std::vector<double> random_normal(Rng& rng, int64_t count, double scale = 1) {
  std::vector<double> out(static_cast<std::size_t>(count));
  for (double& x : out) x = scale * rng.normal();
  return out;
}

inline std::vector<float> random_floats(Rng& rng, int64_t count, double scale = 1) {
  return from_doubles<float>(random_normal(rng, count, scale));
}

// A strided matrix [rows, dim] of T whose elements, and the `padding` elements after each row, start as NaN: an
// element that a kernel fails to write stays NaN, and one that it should not touch stays the very NaN it was.
template <class T>
class Rows {
 public:
  Rows(int64_t rows, int64_t dim, int64_t padding = 0)
      : rows_(rows), dim_(dim), stride_(dim + padding), storage_(static_cast<std::size_t>(rows * stride_), poison()) {}

  static Rows normal(Rng& rng, int64_t rows, int64_t dim, int64_t padding = 0, double scale = 1) {
    Rows out(rows, dim, padding);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t i = 0; i < dim; ++i) out.at(r, i) = from_double<T>(scale * rng.normal());
    }
    return out;
  }

  T& at(int64_t row, int64_t i) { return storage_[static_cast<std::size_t>(row * stride_ + i)]; }
  const T& at(int64_t row, int64_t i) const { return storage_[static_cast<std::size_t>(row * stride_ + i)]; }
  T* data() { return storage_.data(); }
  const T* data() const { return storage_.data(); }
  int64_t stride() const { return stride_; }

  RowsRef<T> ref() { return {storage_.data(), stride_}; }
  RowsRef<const T> view() const { return {storage_.data(), stride_}; }
  HeadsRef<T> heads(int64_t head_dim) { return {storage_.data(), stride_, head_dim}; }
  HeadsRef<const T> heads_view(int64_t head_dim) const { return {storage_.data(), stride_, head_dim}; }

  // The elements without the padding, row by row.
  std::vector<double> values() const {
    std::vector<double> out;
    out.reserve(static_cast<std::size_t>(rows_ * dim_));
    for (int64_t r = 0; r < rows_; ++r) {
      for (int64_t i = 0; i < dim_; ++i) out.push_back(to_double(at(r, i)));
    }
    return out;
  }
  bool padding_untouched() const {
    T untouched = poison();
    for (int64_t r = 0; r < rows_; ++r) {
      for (int64_t i = dim_; i < stride_; ++i) {
        if (std::memcmp(reinterpret_cast<const char*>(&at(r, i)), reinterpret_cast<const char*>(&untouched),
                        sizeof(T)) != 0)
          return false;
      }
    }
    return true;
  }
  // Bitwise, padding included.
  bool operator==(const Rows& other) const {
    return storage_.size() == other.storage_.size() &&
           (storage_.empty() || std::memcmp(data(), other.data(), storage_.size() * sizeof(T)) == 0);
  }

 private:
  static T poison() { return from_double<T>(std::numeric_limits<double>::quiet_NaN()); }

  int64_t rows_, dim_, stride_;
  std::vector<T> storage_;
};

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

inline double rms(const std::vector<double>& x) {
  double sum = 0;
  for (double v : x) sum += v * v;
  return x.empty() ? 0 : std::sqrt(sum / static_cast<double>(x.size()));
}

// rms(actual - expected) / rms(expected); infinite for NaN or for a wrong size.
inline double relative_rms_error(const std::vector<double>& actual, const std::vector<double>& expected) {
  if (actual.size() != expected.size()) return std::numeric_limits<double>::infinity();
  std::vector<double> difference(actual.size());
  for (std::size_t i = 0; i < actual.size(); ++i) difference[i] = actual[i] - expected[i];
  double error = rms(difference), size = rms(expected);
  if (error == 0) return 0;
  return std::isnan(error) ? std::numeric_limits<double>::infinity() : error / size;
}

// The largest deviation of one element, relative to rms(expected); infinite for NaN or for a wrong size.
inline double relative_max_error(const std::vector<double>& actual, const std::vector<double>& expected) {
  if (actual.size() != expected.size()) return std::numeric_limits<double>::infinity();
  double error = 0;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    double difference = std::abs(actual[i] - expected[i]);
    if (std::isnan(difference)) return std::numeric_limits<double>::infinity();
    error = std::max(error, difference);
  }
  return error == 0 ? 0 : error / rms(expected);
}

// What one rounding to T loses at most, relatively: half a unit in the last place (a bf16 has 8 bits of significand).
template <class T>
constexpr double rounding() {
  return std::is_same_v<T, bf16> ? 0x1p-8 : 0x1p-24;
}

// Runs `check` for every instruction set of this processor, with its name in the trace of a failure.
template <class Check>
void for_each_isa(Check&& check) {
  Isa before = active_isa();
  for (Isa isa : supported_isas()) {
    SCOPED_TRACE(std::string("instruction set ") + name(isa));
    use_isa(isa);
    check();
  }
  use_isa(before);
}

// Runs `run` with one and with two threads and compares what it returns bit for bit.
template <class Run>
void expect_same_for_any_thread_count(Run&& run) {
  int before = threads();
  set_threads(1);
  auto one = run();
  set_threads(2);
  auto two = run();
  set_threads(before);
  EXPECT_TRUE(one == two) << "one thread and two threads disagree";
}

}  // namespace rattan::kernels
