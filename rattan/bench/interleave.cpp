#include "rattan/bench/interleave.h"

#include <algorithm>
#include <chrono>
#include <cmath>

namespace rattan::bench {
namespace interleave_file {

constexpr double shortest_timed = 5e-3;  // seconds; below it the change from another candidate shows
constexpr double longest_warm_up = 2;    // a second call that takes longer counts

// Seconds a call, over `repeats` of them.
double time_of(const Candidate& candidate, int64_t repeats) {
  std::chrono::duration<double> took{0};
  for (int64_t i = 0; i < repeats; ++i) {
    if (candidate.prepare) candidate.prepare();
    const auto start = std::chrono::steady_clock::now();
    candidate.run();
    took += std::chrono::steady_clock::now() - start;
  }
  return took.count() / static_cast<double>(repeats);
}

// Timed rounds of a candidate that takes `seconds` a round.
int64_t rounds_of(double seconds, const Budget& budget) {
  auto fit = [&](double in) { return static_cast<int64_t>(std::min(in / std::max(seconds, 1e-6), 1e9)); };
  const int64_t rounds = std::clamp(fit(budget.seconds), budget.min_rounds, budget.max_rounds);
  return budget.limit > 0 ? std::clamp<int64_t>(fit(budget.limit), 1, rounds) : rounds;
}

}  // namespace interleave_file

Timing summarize(std::vector<double> seconds) {
  std::sort(seconds.begin(), seconds.end());
  const size_t n = seconds.size();
  if (n == 0) return {};
  const double middle = n % 2 ? seconds[n / 2] : (seconds[n / 2 - 1] + seconds[n / 2]) / 2;
  return {middle, seconds.front(), seconds.back(), static_cast<int64_t>(n)};
}

std::vector<Timing> interleave(const std::vector<Candidate>& candidates, const Budget& budget) {
  using namespace interleave_file;
  const size_t n = candidates.size();
  std::vector<int64_t> repeats(n), rounds(n);
  std::vector<std::vector<double>> seconds(n);
  for (size_t i = 0; i < n; ++i) {
    // On a GPU the first call loads libraries and kernels, which can take seconds.
    if (!candidates[i].warm) time_of(candidates[i], 1);
    const double once = time_of(candidates[i], 1);
    repeats[i] = once >= shortest_timed ? 1 : std::max<int64_t>(1, std::llround(shortest_timed / (once + 1e-9)));
    rounds[i] = rounds_of(once * static_cast<double>(repeats[i]), budget);
    if (once > longest_warm_up) {
      seconds[i].push_back(once);
      if (budget.limit > 0) --rounds[i];
    }
  }
  const int64_t most = n == 0 ? 0 : *std::max_element(rounds.begin(), rounds.end());
  // There and back: at a power limit the clock depends on what ran before, which must not always be the same candidate.
  for (int64_t round = 0; round < most; ++round)
    for (size_t place = 0; place < n; ++place) {
      const size_t i = round % 2 ? n - 1 - place : place;
      if ((round + 1) * rounds[i] / most > round * rounds[i] / most)
        seconds[i].push_back(time_of(candidates[i], repeats[i]));
    }
  std::vector<Timing> out;
  for (auto& times : seconds) out.push_back(summarize(std::move(times)));
  return out;
}

}  // namespace rattan::bench
