// token_draw (kernels/token_draw.h) in plain loops: its definition, and the choice on a processor where the host's own
// sampler does not make it.
#pragma once
#include "rattan/kernels/token_draw.h"

namespace rattan::kernels::ref {

void token_draw(const TokenDraw& a);

}  // namespace rattan::kernels::ref
