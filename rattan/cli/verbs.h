#pragma once
#include <span>

#include "rattan/cli/verb.h"

namespace rattan::cli {

std::span<const Verb> verbs();  // in the order `--help` shows them

}  // namespace rattan::cli
