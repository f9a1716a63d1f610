// Guesses of what comes next, from the text itself (prompt lookup; Saxena, 2023:
// github.com/apoorvumang/prompt-lookup-decoding).
#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace rattan::infer {

// The up to `most` tokens that followed the latest earlier place where the last 3 tokens stand, else the last 2.
std::vector<int32_t> lookup(std::span<const int32_t> ids, int64_t most);

}  // namespace rattan::infer
