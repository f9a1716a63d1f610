#include "rattan/train/run_config.h"

namespace rattan::train {

void RunConfig::fields(Fields& f) {
  f("device", device, "where to compute: cpu, cuda, cuda:1, ...");
  f("threads", threads, "processor threads; 0: one a core", at_least(0));
  f("minutes", minutes,
    "fit train.steps to about this many minutes on this machine, by a calibration before the first step; 0: off",
    at_least(0.0));
  f("checkpoint_every", checkpoint_every, "steps between checkpoints; one is always written at the end", at_least(1));
  f("keep_last", keep_last, "how many of the newest checkpoints stay", at_least(1));
  f("keep_every", keep_every, "checkpoints at multiples of so many steps stay for good; 0: none do", at_least(0));
  f("sample_every", sample_every, "steps between samples; 0: at the end only", at_least(0));
  f("sample_tokens", sample_tokens, "length of a sample; 0: no samples", at_least(0));
  f("sample_prompt", sample_prompt, "text that samples continue");
  f("sample_temperature", sample_temperature, "temperature of the samples", at_least(0.0));
  f("peak_tflops", peak_tflops,
    "speed that model-FLOP utilization is a share of, in 10^12/s; 0: that of a large matrix product, measured at the "
    "start",
    at_least(0.0));
}

}  // namespace rattan::train
