// Amounts of memory as people write them.
#pragma once
#include <cstdint>
#include <string>

namespace rattan::serve {

// "8GiB", "500MB", "1073741824", or a share of `whole` such as "60%". InputError that names `flag` for anything else.
int64_t memory_size(const std::string& text, int64_t whole, const std::string& flag);

}  // namespace rattan::serve
