#include "rattan/infer/sampler.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "rattan/base/error.h"
#include "rattan/base/range.h"

namespace rattan::infer {
namespace sampler_file {

struct Candidate {
  double p;  // exp(z / T - max), not divided by its sum
  int32_t id;
};

bool more_probable(const Candidate& a, const Candidate& b) { return a.p > b.p || (a.p == b.p && a.id < b.id); }

double checked_max(std::span<const float> logits) {
  double best = -std::numeric_limits<double>::infinity();
  for (float z : logits) {
    if (std::isnan(z) || z == std::numeric_limits<float>::infinity())
      fail("a logit is {}: the model's weights or its computation are damaged", z);
    best = std::max(best, static_cast<double>(z));
  }
  if (std::isinf(best)) fail("no token is possible: all {} logits are -inf", logits.size());
  return best;
}

double log_sum_exp(std::span<const float> logits, double max) {
  double sum = 0;
  for (float z : logits) sum += std::exp(z - max);
  return max + std::log(sum);
}

std::vector<float> penalized(std::span<const float> logits, std::span<const int32_t> history, double penalty) {
  std::vector<float> out(logits.begin(), logits.end());
  std::vector<bool> seen(logits.size(), false);
  for (int32_t id : history) {
    const auto i = static_cast<std::size_t>(id);
    if (id < 0 || i >= out.size() || seen[i]) continue;
    seen[i] = true;
    out[i] = static_cast<float>(out[i] > 0 ? out[i] / penalty : out[i] * penalty);
  }
  return out;
}

// top-p and min-p; `c` is sorted by falling probability.
void restrict(std::vector<Candidate>& c, const SamplerConfig& config) {
  if (config.top_p < 1) {
    double sum = 0, reached = 0;
    for (const Candidate& x : c) sum += x.p;
    std::size_t n = 0;
    while (n < c.size() && (n == 0 || reached < config.top_p * sum)) reached += c[n++].p;
    c.resize(n);
  }
  const double least = config.min_p * c.front().p;
  while (c.back().p < least) c.pop_back();
}

int32_t draw(const std::vector<Candidate>& c, Rng& rng) {
  double sum = 0;
  for (const Candidate& x : c) sum += x.p;
  double left = rng.uniform() * sum;
  for (const Candidate& x : c) {
    left -= x.p;
    if (left < 0) return x.id;
  }
  // Rounding can leave a rest at the very end of the sum.
  for (auto x = c.rbegin(); x != c.rend(); ++x)
    if (x->p > 0) return x->id;
  return c.front().id;
}

}  // namespace sampler_file

void SamplerConfig::fields(Fields& f) {
  f("temperature", temperature, "divides the logits; 0: always the most probable token", at_least(0));
  f("top_k", top_k, "sample from the k most probable tokens; 0: from all", at_least(0));
  f("top_p", top_p, "sample from the fewest tokens whose probabilities reach this sum", Range{0, 1, true, {}});
  f("min_p", min_p, "sample from tokens at least this times as probable as the best", between(0, 1));
  f("repetition_penalty", repetition_penalty, "divides the positive logits of tokens already there", above(0));
}

void SamplerConfig::validate() const {
  auto check = [](const char* name, double value, const Range& range) {
    require(range_holds(range, value), "{} must be {}, got {}", name, range_text(range), value);
  };
  check("temperature", temperature, at_least(0));
  require(std::isfinite(temperature), "temperature must be finite");
  check("top-k", static_cast<double>(top_k), at_least(0));
  check("top-p", top_p, Range{0, 1, true, {}});
  check("min-p", min_p, between(0, 1));
  check("repetition penalty", repetition_penalty, above(0));
  require(std::isfinite(repetition_penalty), "the repetition penalty must be finite");
}

Choice choose(std::span<const float> logits, std::span<const int32_t> history, const SamplerConfig& config, Rng& rng) {
  using namespace sampler_file;
  const double raw_max = checked_max(logits);
  const double normalizer = log_sum_exp(logits, raw_max);
  auto result = [&](int32_t id) { return Choice{id, logits[static_cast<std::size_t>(id)] - normalizer}; };

  std::vector<float> changed;
  std::span<const float> z = logits;
  if (config.repetition_penalty != 1) {
    changed = penalized(logits, history, config.repetition_penalty);
    z = changed;
  }
  const auto best = std::max_element(z.begin(), z.end());
  if (config.temperature == 0) return result(static_cast<int32_t>(best - z.begin()));

  const double max = *best;
  std::vector<Candidate> c(z.size());
  for (std::size_t i = 0; i < z.size(); ++i)
    c[i] = {std::exp((z[i] - max) / config.temperature), static_cast<int32_t>(i)};
  if (config.top_k > 0 || config.top_p < 1 || config.min_p > 0) {
    if (config.top_k > 0 && config.top_k < static_cast<int64_t>(c.size())) {
      std::nth_element(c.begin(), c.begin() + config.top_k, c.end(), more_probable);
      c.resize(config.top_k);
    }
    std::sort(c.begin(), c.end(), more_probable);
    restrict(c, config);
  }
  return result(draw(c, rng));
}

}  // namespace rattan::infer
