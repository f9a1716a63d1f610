#include "rattan/infer/engine/fingerprint.h"

#include <c10/core/ScalarType.h>

#include <algorithm>
#include <vector>

#include "rattan/base/parallel.h"
#include "rattan/data/checksum.h"

namespace rattan::infer {
namespace fingerprint_file {

// Blocks are summed side by side, then their sums.
constexpr int64_t block = 1 << 20;

void add(Checksum& sum, const std::string& name, const at::Tensor& value) {
  const at::Tensor host = value.detach().to(at::kCPU).contiguous();
  const auto* data = static_cast<const char*>(host.const_data_ptr());
  const auto bytes = static_cast<int64_t>(host.nbytes());
  std::vector<uint64_t> sums(static_cast<std::size_t>(ceil_div(bytes, block)));
  parallel_for(std::ssize(sums), [&](int64_t i) {
    const auto size = static_cast<std::size_t>(std::min(block, bytes - i * block));
    sums[static_cast<std::size_t>(i)] = checksum({data + i * block, size});
  });
  const auto type = static_cast<int64_t>(host.scalar_type());
  sum.add(name.data(), name.size());
  sum.add(&type, sizeof type);
  sum.add(host.sizes().data(), host.sizes().size() * sizeof(int64_t));
  sum.add(sums.data(), sums.size() * sizeof(uint64_t));
}

}  // namespace fingerprint_file

std::string fingerprint(models::Model& model) {
  Checksum sum;
  const std::string settings = model.settings();
  const auto compute = static_cast<int64_t>(model.compute);
  sum.add(settings.data(), settings.size());
  sum.add(&compute, sizeof compute);
  sum.add(&model.cache_in_8_bits, sizeof model.cache_in_8_bits);
  model.each_param(
      [&](const std::string& name, nn::Param& param) { fingerprint_file::add(sum, name, param.master()); });
  model.each_buffer([&](const std::string& name, nn::Buffer& buffer) {
    if (buffer.persistent) fingerprint_file::add(sum, name, buffer.value);
  });
  return checksum_text(sum.value());
}

}  // namespace rattan::infer
