// Dropout whose mask is a recorded choice, so that recomputation replays it.
#pragma once
#include "rattan/nn/call.h"

namespace rattan::nn {

// Zeroes each element with probability p and scales the rest by 1/(1-p) in training; the identity else.
// Needs call.rng while training.
at::Tensor dropout(const at::Tensor& x, double p, const std::string& name, Call& call);

}  // namespace rattan::nn
