// The [run] table: what a training run writes and where it computes.
#pragma once
#include <string>

#include "rattan/base/fields.h"

namespace rattan::train {

struct RunConfig {
  std::string device = "cpu";
  int64_t threads = 0;
  double minutes = 0;
  int64_t checkpoint_every = 500, keep_last = 2, keep_every = 0;
  int64_t sample_every = 0, sample_tokens = 120;
  std::string sample_prompt;
  double sample_temperature = 0.8;
  double peak_tflops = 0;
  void fields(Fields& f);
};

}  // namespace rattan::train
