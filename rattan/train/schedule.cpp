#include "rattan/train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "rattan/base/error.h"

namespace rattan::train {

int64_t warmup_steps(const ScheduleConfig& config, int64_t steps) {
  double wanted = config.warmup < 1 ? config.warmup * static_cast<double>(steps) : config.warmup;
  return std::min(steps, static_cast<int64_t>(std::llround(std::min(wanted, 1e18))));
}

double learning_rate(const ScheduleConfig& config, int64_t step, int64_t steps) {
  require(steps > 0 && step > 0, "a learning rate needs a step and a number of steps of at least 1, got {} and {}",
          step, steps);
  require(config.min_lr <= config.lr, "min_lr = {} exceeds lr = {}: the schedule falls from lr to min_lr",
          config.min_lr, config.lr);
  int64_t warmup = warmup_steps(config, steps);
  if (step <= warmup) return config.lr * static_cast<double>(step) / static_cast<double>(warmup);
  if (config.schedule == "constant") return config.lr;
  bool cosine = config.schedule == "cosine";
  int64_t begin = warmup;
  if (!cosine) {
    auto decay = static_cast<int64_t>(std::llround(config.decay * static_cast<double>(steps)));
    begin = std::max(warmup, steps - decay);
  }
  if (step <= begin) return config.lr;
  double p = std::min(1.0, static_cast<double>(step - begin) / static_cast<double>(steps - begin));
  double share = cosine ? 0.5 * (1 + std::cos(std::numbers::pi * p)) : 1 - std::sqrt(p);
  return config.min_lr + (config.lr - config.min_lr) * share;
}

}  // namespace rattan::train
