// torch's own attention kernel behind the core interface: the baseline of the layer benchmark.
#pragma once
#include "rattan/nn/core.h"

namespace rattan::bench {

// Plain [B, T] batches only, causal; in decoding every row has the same length.
class TorchAttention : public nn::AttentionCore {
 public:
  explicit TorchAttention(int64_t batch) : batch_(batch) {}
  nn::AttnOut attend(const nn::AttnIn& in, nn::Call& call) override;

 private:
  int64_t batch_;
};

}  // namespace rattan::bench
