#include "rattan/train/calibrate.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <vector>

namespace rattan::train {

int64_t calibrate_steps(models::Model& model, Task& task, const FitConfig& config, double seconds) {
  using Clock = std::chrono::steady_clock;
  constexpr int64_t warm_up = 2, least = 5;
  const double span = std::clamp(seconds / 20, 1.0, 6.0);
  FitConfig trial = config;
  trial.eval_every = 0;
  trial.steps = 1 << 20;
  std::vector<double> times;
  double total = 0, evaluation = 0;
  Clock::time_point ended;
  FitHooks hooks;
  hooks.on_step = [&](const StepReport& r) {
    if (r.step > warm_up) times.push_back(r.seconds), total += r.seconds;
  };
  hooks.after_step = [&](const FitState&) {
    ended = Clock::now();
    return static_cast<int64_t>(times.size()) >= least && total >= span;
  };
  FitState state;
  fit(model, task, trial, state, hooks);
  auto begin = Clock::now();
  task.evaluate(model, Split::valid);
  evaluation = std::chrono::duration<double>(Clock::now() - begin).count();
  auto middle = times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2);
  std::nth_element(times.begin(), middle, times.end());
  double each = *middle + (config.eval_every > 0 ? evaluation / static_cast<double>(config.eval_every) : 0);
  return std::max<int64_t>(1, static_cast<int64_t>(std::floor((seconds - evaluation) / each)));
}

}  // namespace rattan::train
