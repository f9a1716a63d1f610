// Activation recomputation: keeps a block's inputs instead of its activations and runs it again in backward. What
// attention and RAT mixed is kept as well (ops/kept.h): at T = 131,072 it takes a quarter of a block's forward pass and
// a twelfth of its activations.
#pragma once
#include "rattan/nn/block.h"

namespace rattan::nn {

// Runs block.forward(stream, call); gradients are bit for bit those without recomputation. Choices are recorded in
// call.choices as usual and replayed, losses of the block's sink come out as outputs and are counted once. Not with
// a state that the block would change: call.carry, call.core_state.
void checkpointed_forward(Block& block, Stream& stream, Call& call);

}  // namespace rattan::nn
