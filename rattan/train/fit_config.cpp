#include "rattan/train/fit.h"

namespace rattan::train {

void FitConfig::fields(Fields& f) {
  f("steps", steps, "optimizer steps in all", at_least(1));
  f("accumulation", accumulation, "batches whose gradients are added up for one step", at_least(1));
  ScheduleConfig::fields(f);
  f("beta1", beta1, "AdamW: decay of the mean of the gradient", between(0.0, 0.999999));
  f("beta2", beta2, "AdamW: decay of the mean of its square", between(0.0, 0.999999));
  f("eps", eps, "AdamW: added to the root of the mean square", above(0.0));
  f("weight_decay", weight_decay, "AdamW: decoupled weight decay", at_least(0.0));
  f("decay_on", decay_on, "what decays: all parameters, or only those of two and more dimensions",
    one_of({"all", "matrices"}));
  f("clip", clip, "largest global norm of the gradient; 0: no clipping", at_least(0.0));
  f("precision", precision,
    "type of the matrix products; parameters are kept in fp32. fp8: e4m3 with a scale a row in the projections of "
    "mixers and feed-forward layers (weight gradients, embedding, head and all else in bf16), on GPUs of compute "
    "capability 9.0 on; fp8_emulated: the same roundings on any device, slowly",
    one_of({"bf16", "fp32", "fp8", "fp8_emulated"}));
  f("checkpointing", checkpointing,
    "recompute activations in backward, all but what attention and RAT mixed: less memory, more time");
  f("eval_every", eval_every, "steps between evaluations; 0: at the end only", at_least(0));
  f("seed", seed, "decides initial weights, data order and dropout", at_least(0));
}

}  // namespace rattan::train
