#include "rattan/bench/interleave.h"

#include <algorithm>
#include <chrono>
#include <cmath>

namespace rattan::bench {
namespace interleave_file {

constexpr double shortest_timed = 5e-3;  // seconds; below it the change from another candidate shows
constexpr double longest_warm_up = 2;    // a second call that takes longer counts

double time_of(const Candidate& candidate, int64_t repeats) {
  const auto start = std::chrono::steady_clock::now();
  for (int64_t i = 0; i < repeats; ++i) candidate.run();
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  return took.count() / static_cast<double>(repeats);
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
  std::vector<int64_t> repeats;
  std::vector<std::vector<double>> seconds(candidates.size());
  double round_seconds = 0;
  for (size_t i = 0; i < candidates.size(); ++i) {
    time_of(candidates[i], 1);  // on a GPU the first call loads libraries and kernels, which can take seconds
    const double once = time_of(candidates[i], 1);
    if (once > longest_warm_up) seconds[i].push_back(once);
    repeats.push_back(once >= shortest_timed ? 1 : std::max<int64_t>(1, std::llround(shortest_timed / (once + 1e-9))));
    round_seconds = std::max(round_seconds, once * static_cast<double>(repeats.back()));
  }
  const auto wanted = static_cast<int64_t>(budget.seconds / std::max(round_seconds, 1e-6));
  const int64_t rounds = std::clamp(wanted, budget.min_rounds, budget.max_rounds);
  for (int64_t round = 0; round < rounds; ++round)
    for (size_t i = 0; i < candidates.size(); ++i) seconds[i].push_back(time_of(candidates[i], repeats[i]));
  std::vector<Timing> out;
  for (auto& times : seconds) out.push_back(summarize(std::move(times)));
  return out;
}

}  // namespace rattan::bench
