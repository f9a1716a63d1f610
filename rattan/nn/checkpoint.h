// Activation recomputation: keeps a block's inputs instead of its activations and runs it again in backward.
#pragma once
#include "rattan/nn/block.h"

namespace rattan::nn {

// Runs block.forward(stream, call); gradients are bit for bit those without recomputation. Choices are replayed,
// losses of the block's sink come out as outputs and are counted once. Not with call.carry.
void checkpointed_forward(Block& block, Stream& stream, Call& call);

}  // namespace rattan::nn
