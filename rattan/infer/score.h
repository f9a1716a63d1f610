// How probable a model finds a given text.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "rattan/models/model.h"

namespace rattan::infer {

struct ScoreConfig {
  int64_t chunk = 512;          // tokens of one call of the model; the memory for logits grows with it
  int64_t trained_context = 0;  // longer texts make one warning; 0: unknown
  std::function<void(const std::string&)> warn;
};

// log p(ids[t] | ids[0, t)) for t = 1 .. n-1, natural logarithm: n-1 values, since nothing stands before the first.
// `ids` must be ids that the model knows.
std::vector<double> score(models::Model& model, std::span<const int32_t> ids, const ScoreConfig& config = {});

// InputError naming the first id that is not in [0, vocab_size).
void check_ids(std::span<const int32_t> ids, int64_t vocab_size);

}  // namespace rattan::infer
