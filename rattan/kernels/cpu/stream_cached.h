// stream_keys for keys and values in 8 bits: a block of one head at a time goes through fp32 in the nearest cache.
#pragma once
#include "rattan/kernels/cpu/mxint8_row.h"
#include "rattan/kernels/cpu/stream.h"

namespace rattan::kernels::RATTAN_ISA {

inline void stream_cached_keys(int64_t begin, int64_t end, const Mxint8Heads<const int8_t>& k,
                               const Mxint8Heads<const int8_t>& v, int64_t heads, int64_t kv_heads, int64_t dim,
                               const float* q, const StreamState& state) {
  const int64_t padded = round_up(dim, W), share = heads / kv_heads;
  Scratch memory(2 * Scratch::size<float>(stream_block * padded) + Scratch::size<float>(share * stream_block));
  float* keys = memory.take<float>(stream_block * padded);
  float* values = memory.take<float>(stream_block * padded);
  float* scores = memory.take<float>(share * stream_block);
  for (int64_t j0 = begin; j0 < end; j0 += stream_block) {
    const int64_t n = end - j0 < stream_block ? end - j0 : stream_block;
    for (int64_t g = 0; g < kv_heads; ++g) {
      for (int64_t j = 0; j < n; ++j) {
        decode_row(k.code.at(j0 + j, g), k.exponent.at(j0 + j, g), dim, keys + j * padded);
        decode_row(v.code.at(j0 + j, g), v.exponent.at(j0 + j, g), dim, values + j * padded);
      }
      const HeadsRef<const float> of_keys{keys, padded, 0}, of_values{values, padded, 0};
      StreamState of_group = state;
      of_group.max += g * share, of_group.sum += g * share, of_group.out += g * share * padded;
      stream_keys(0, n, of_keys, of_values, share, 1, dim, q + g * share * padded, scores, of_group);
    }
  }
}

}  // namespace rattan::kernels::RATTAN_ISA
