#include "rattan/kernels/cpu/scratch.h"

#include <cstdlib>
#include <new>

namespace rattan::kernels {
namespace scratch_file {

constexpr std::size_t kept_limit = std::size_t{64} << 20;

struct Kept {
  char* block = nullptr;
  std::size_t bytes = 0;
  ~Kept() { std::free(block); }
};
thread_local Kept kept;

}  // namespace scratch_file

Scratch::Scratch(std::size_t bytes) : bytes_((bytes + 4095) / 4096 * 4096) {
  using scratch_file::kept;
  if (kept.block && kept.bytes >= bytes_) {
    block_ = kept.block;
    bytes_ = kept.bytes;
    kept = {};
  } else {
    block_ = static_cast<char*>(std::aligned_alloc(4096, bytes_ ? bytes_ : 4096));
    if (!block_) throw std::bad_alloc();
  }
  next_ = block_;
}

Scratch::~Scratch() {
  using scratch_file::kept;
  if (bytes_ > kept.bytes && bytes_ <= scratch_file::kept_limit) {
    std::free(kept.block);
    kept.block = block_;
    kept.bytes = bytes_;
  } else {
    std::free(block_);
  }
}

}  // namespace rattan::kernels
