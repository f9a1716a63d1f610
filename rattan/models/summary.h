// The size and cost of a language model, from its configuration alone.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "rattan/models/language_model.h"

namespace rattan::models {

struct Part {
  std::string name;  // "embedding", "mixer <name>", "feed-forward", "norms", "output"
  int64_t parameters = 0;
};

struct AtLength {
  int64_t tokens = 0;
  int64_t state_bytes = 0;                       // of one sequence of so many tokens
  double forward_flops = 0, training_flops = 0;  // a token, mean over such a sequence
};

struct Summary {
  int64_t parameters = 0;
  std::vector<Part> parts;        // in the order above, without empty ones
  std::vector<AtLength> lengths;  // as asked
  AtLength at_context;            // at config.context
  std::string fp8_obstacle;       // what keeps its projections from fp8, "" if nothing does
};

// No weights are allocated. `compute`: the type the state is kept in. InputError for a configuration that cannot be.
Summary summarize(const LanguageModelConfig& config, const std::vector<int64_t>& lengths, at::ScalarType compute);

}  // namespace rattan::models
