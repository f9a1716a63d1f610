// The feed-forward layer, a mixer with an empty state: down(act(up x)), with gelu or swiglu
// (swiglu: down(silu(gate x) * up x)). Weights up, down and, for swiglu, gate; no biases.
#pragma once
#include <string>

#include "rattan/nn/linear.h"
#include "rattan/nn/mixer.h"

namespace rattan::nn {

// type: "gelu" or "swiglu".
std::unique_ptr<Mixer> make_ffn(const std::string& type, int64_t hidden, const MixerContext& context);

}  // namespace rattan::nn
