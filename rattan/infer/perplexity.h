// Perplexity of a model on a text.
//
// The text is read in windows of `context` inputs that start every `stride` tokens. Each token but the text's first is
// predicted once, in the first window that holds it: with stride = context every window starts from nothing; with a
// smaller stride a token (after the first window) has at least context - stride + 1 tokens before it.
// A model whose cache is in 8 bits is read through its state, as when it generates: each token sees rounded keys and
// values.
//   perplexity = exp(mean of -log p),  bits per byte = sum of -log2 p / bytes of the predicted tokens' text.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "rattan/models/model.h"

namespace rattan::infer {

struct PerplexityConfig {
  int64_t context = 0, stride = 0;  // 1 <= stride <= context
  int64_t batch_tokens = 4096;      // windows are read together up to this many tokens
};

struct PositionLoss {
  int64_t from = 0, to = 0;  // tokens before the predicted one, within its window: from <= n <= to
  int64_t tokens = 0;
  double loss = 0;  // mean, nats
};

struct Perplexity {
  int64_t tokens = 0;                     // predicted ones
  double nats = 0;                        // sum of -log p
  std::vector<PositionLoss> by_position;  // ranges that double in size: 1, 2, 3-4, 5-8, ...
  double loss() const { return nats / static_cast<double>(tokens); }
  double perplexity() const;
  double bits_per_byte(double bytes) const;
};

// `progress` is told how many of the tokens to be predicted are done. InputError for windows that cannot be or fewer
// than 2 tokens.
Perplexity perplexity(models::Model& model, std::span<const int32_t> ids, const PerplexityConfig& config,
                      const std::function<void(int64_t done, int64_t all)>& progress = {});

}  // namespace rattan::infer
