// The learning rate as a pure function of the step.
#pragma once
#include <cstdint>
#include <string>

#include "rattan/base/fields.h"

namespace rattan::train {

// cosine: linear warm-up, then min_lr + (lr - min_lr) (1 + cos(pi p)) / 2 with p going from 0 to 1
//         (Loshchilov & Hutter, SGDR, 2017, without restarts).
// wsd:    linear warm-up, lr held, then over the last `decay` of all steps min_lr + (lr - min_lr) (1 - sqrt(p))
//         (warm-up, stable, decay: Hu et al., MiniCPM, 2024; the shape of the decay: Haegele et al., 2024).
// constant: linear warm-up, then lr.
struct ScheduleConfig {
  std::string schedule = "cosine";
  double lr = 8e-4;
  double min_lr = 1e-6;
  double warmup = 0.05;
  double decay = 0.2;

  void fields(Fields& f) {
    f("lr", lr, "peak learning rate", above(0.0));
    f("min_lr", min_lr, "learning rate at the last step", at_least(0.0));
    f("schedule", schedule, "what follows the warm-up: down a cosine, held then lowered (wsd), or held",
      one_of({"cosine", "wsd", "constant"}));
    f("warmup", warmup, "length of the linear warm-up: a number of steps, or below 1 a share of all steps",
      at_least(0.0));
    f("decay", decay, "wsd: share of all steps at the end in which the learning rate falls", between(0.0, 1.0));
  }
};

// Updates are numbered 1..steps; step s <= w of the warm-up gets lr s / w, the last step gets min_lr.
// InputError if step or steps is not positive, or min_lr > lr.
double learning_rate(const ScheduleConfig& config, int64_t step, int64_t steps);

int64_t warmup_steps(const ScheduleConfig& config, int64_t steps);  // rounded; never more than `steps`

}  // namespace rattan::train
