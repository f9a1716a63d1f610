#include "rattan/infer/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <unordered_map>
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

bool changes(const Past& past, const SamplerConfig& config) {
  return config.repetition_penalty != 1 || config.presence_penalty != 0 || config.frequency_penalty != 0 ||
         (past.bias && !past.bias->empty()) || past.allowed;
}

void penalize(std::vector<float>& z, const Past& past, const SamplerConfig& config) {
  std::unordered_map<int32_t, int64_t> made;  // times each token was made, 0 for those that were given alone
  for (std::size_t i = 0; i < past.tokens.size(); ++i) made[past.tokens[i]] += i >= past.prompt;
  for (const auto& [id, count] : made) {
    if (id < 0 || static_cast<std::size_t>(id) >= z.size()) continue;
    float& x = z[static_cast<std::size_t>(id)];
    double y = x > 0 ? x / config.repetition_penalty : x * config.repetition_penalty;
    if (count > 0) y -= config.presence_penalty + config.frequency_penalty * static_cast<double>(count);
    x = static_cast<float>(y);
  }
}

std::vector<float> changed_by(std::span<const float> logits, const Past& past, const SamplerConfig& config) {
  std::vector<float> z(logits.begin(), logits.end());
  if (past.bias)
    for (const auto& [id, bias] : *past.bias)
      if (id >= 0 && static_cast<std::size_t>(id) < z.size()) z[static_cast<std::size_t>(id)] += bias;
  if (config.repetition_penalty != 1 || config.presence_penalty != 0 || config.frequency_penalty != 0)
    penalize(z, past, config);
  for (std::size_t i = 0; past.allowed && i < z.size(); ++i)
    if (i / 64 >= past.allowed->size() || ((*past.allowed)[i / 64] >> (i % 64) & 1) == 0)
      z[i] = -std::numeric_limits<float>::infinity();
  return z;
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
  f("presence_penalty", presence_penalty, "taken from the logits of tokens that were made", between(-100, 100));
  f("frequency_penalty", frequency_penalty, "the same, for every time a token was made", between(-100, 100));
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
  check("presence penalty", presence_penalty, between(-100, 100));
  check("frequency penalty", frequency_penalty, between(-100, 100));
}

Choice choose(std::span<const float> logits, const Past& past, const SamplerConfig& config, Rng& rng) {
  using namespace sampler_file;
  const double raw_max = checked_max(logits);
  const double normalizer = log_sum_exp(logits, raw_max);
  auto result = [&](int32_t id) { return Choice{id, logits[static_cast<std::size_t>(id)] - normalizer}; };

  std::vector<float> changed;
  std::span<const float> z = logits;
  if (changes(past, config)) {
    changed = changed_by(logits, past, config);
    z = changed;
    checked_max(z);
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

std::vector<Choice> most_probable(std::span<const float> logits, int64_t n) {
  std::vector<int32_t> order(logits.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
  const auto count = std::min(static_cast<std::size_t>(n), order.size());
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count), order.end(),
                    [&](int32_t a, int32_t b) {
                      const float x = logits[static_cast<std::size_t>(a)], y = logits[static_cast<std::size_t>(b)];
                      return x > y || (x == y && a < b);
                    });
  order.resize(count);
  return probabilities(logits, order);
}

std::vector<Choice> probabilities(std::span<const float> logits, std::span<const int32_t> ids) {
  const double normalizer = sampler_file::log_sum_exp(logits, sampler_file::checked_max(logits));
  std::vector<Choice> out;
  for (int32_t id : ids) out.push_back({id, logits[static_cast<std::size_t>(id)] - normalizer});
  return out;
}

}  // namespace rattan::infer
