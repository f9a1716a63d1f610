// The flags that benchmarks of layers and of models share.
#pragma once
#include "rattan/bench/interleave.h"
#include "rattan/cli/verb.h"

namespace rattan::cli {

// --seconds, --rounds and --budget.
void declare_budget(CLI::App& verb, bench::Budget& budget);

}  // namespace rattan::cli
