#include "rattan/kernels/cuda/rat_stages.h"

#include "rattan/base/error.h"

namespace rattan::kernels::cuda {

void rat_check_rows(std::initializer_list<int64_t> strides) {
  for (int64_t stride : strides) {
    if (stride < 0 || stride >= int64_t{1} << 26)
      fail("rat (CUDA): rows lie {} elements apart; strides up to 2^26 elements are supported", stride);
  }
}

}  // namespace rattan::kernels::cuda
