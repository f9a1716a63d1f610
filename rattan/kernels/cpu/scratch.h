// Scratch memory of one task: 64-byte aligned, uninitialized. Blocks up to a limit are kept per thread, so
// that tasks do not pay for fresh pages. Scratches of one thread may nest.
#pragma once
#include <cstddef>
#include <cstdint>

namespace rattan::kernels {

class Scratch {
 public:
  explicit Scratch(std::size_t bytes);  // throws std::bad_alloc
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // Takes n elements from the front of what is left; each piece starts at a multiple of 64 bytes.
  template <class T>
  [[gnu::always_inline]] T* take(int64_t n) {
    T* piece = reinterpret_cast<T*>(next_);
    next_ += (static_cast<std::size_t>(n) * sizeof(T) + 63) / 64 * 64;
    return piece;
  }
  // Bytes that take<T>(n) uses.
  template <class T>
  [[gnu::always_inline]] static std::size_t size(int64_t n) {
    return (static_cast<std::size_t>(n) * sizeof(T) + 63) / 64 * 64;
  }

 private:
  char* block_;
  char* next_;
  std::size_t bytes_;
};

}  // namespace rattan::kernels
