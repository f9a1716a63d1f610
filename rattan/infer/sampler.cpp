#include "rattan/infer/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <unordered_map>
#include <vector>

#include "rattan/base/error.h"
#include "rattan/base/range.h"
#include "rattan/kernels/token_weights.h"

namespace rattan::infer {
namespace sampler_file {

struct Candidate {
  double p;  // exp((z - max) / T), not divided by its sum
  int32_t id;
};

bool more_probable(const Candidate& a, const Candidate& b) { return a.p > b.p || (a.p == b.p && a.id < b.id); }

struct Weights {
  std::vector<float> of;      // exp((z - max) / T); empty where they were not asked for
  std::vector<float> blocks;  // their sums by kernels::token_block
  float highest = 0;          // logit
  double normalizer = 0;      // log sum exp z
};

// The error of a row for which there are no weights.
[[noreturn]] void refuse(std::span<const float> logits) {
  for (float z : logits)
    if (std::isnan(z) || z == std::numeric_limits<float>::infinity())
      fail("a logit is {}: the model's weights or its computation are damaged", z);
  fail("no token is possible: all {} logits are -inf", logits.size());
}

Weights weigh(std::span<const float> logits, double temperature, bool wanted) {
  Weights out;
  kernels::TokenWeights args{.logits = logits.data(), .vocabulary = static_cast<int64_t>(logits.size())};
  // Below, every other token's weight would be 0 as well.
  args.temperature = static_cast<float>(std::max(temperature, 1e-30));
  if (wanted) {
    out.of.resize(logits.size());
    out.blocks.resize((logits.size() + kernels::token_block - 1) / kernels::token_block);
    args.weights = out.of.data();
    args.block_sums = out.blocks.data();
  }
  double sum = 0;
  args.highest = &out.highest;
  args.sum = &sum;
  kernels::token_weights(args);
  if (std::isinf(out.highest) || !(sum > 0)) refuse(logits);
  out.normalizer = out.highest + std::log(sum);
  return out;
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

// The fewest of the most probable whose share of the sum reaches p; they are sorted by falling probability. Mostly
// these are few, so no more than the first of them are sorted.
void keep_share(std::vector<Candidate>& c, double p) {
  double sum = 0, reached = 0;
  for (const Candidate& x : c) sum += x.p;
  std::size_t n = 0;
  for (std::size_t sorted = 0, end = 64; n == sorted && n < c.size(); sorted = end, end *= 4) {
    end = std::min(end, c.size());
    const auto first = c.begin() + static_cast<std::ptrdiff_t>(sorted),
               last = c.begin() + static_cast<std::ptrdiff_t>(end);
    std::partial_sort(first, last, c.end(), more_probable);
    while (n < end && (n == 0 || reached < p * sum)) reached += c[n++].p;
  }
  c.resize(n);
}

std::vector<Candidate> candidates(const std::vector<float>& weights, const SamplerConfig& config) {
  std::vector<Candidate> c;
  for (std::size_t i = 0; i < weights.size(); ++i)
    if (weights[i] > 0) c.push_back({weights[i], static_cast<int32_t>(i)});
  if (config.top_k > 0 && config.top_k < std::ssize(c)) {
    std::partial_sort(c.begin(), c.begin() + config.top_k, c.end(), more_probable);
    c.resize(static_cast<std::size_t>(config.top_k));
  }
  if (config.top_p < 1) keep_share(c, config.top_p);
  const double least = config.min_p * std::min_element(c.begin(), c.end(), more_probable)->p;
  std::erase_if(c, [&](const Candidate& x) { return x.p < least; });
  // A draw goes by ids, like the one of a kernel (kernels/token_draw.h).
  std::sort(c.begin(), c.end(), [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
  return c;
}

int32_t draw(const std::vector<Candidate>& c, Rng& rng) {
  double sum = 0;
  for (const Candidate& x : c) sum += x.p;
  double left = rng.uniform() * sum;
  for (const Candidate& x : c) {
    left -= x.p;
    if (left < 0) return x.id;
  }
  return c.back().id;  // rounding can leave a rest at the very end of the sum
}

int32_t draw(const Weights& w, Rng& rng) {
  double sum = 0;
  for (float x : w.blocks) sum += x;
  double left = rng.uniform() * sum;
  std::size_t block = 0;
  while (block + 1 < w.blocks.size() && left >= w.blocks[block]) left -= w.blocks[block++];
  std::size_t last = 0;
  for (std::size_t i = block * kernels::token_block; i < w.of.size(); ++i) {
    if (w.of[i] == 0) continue;
    left -= w.of[last = i];
    if (left < 0) return static_cast<int32_t>(i);
  }
  // Rounding can leave a rest at the very end of the sum.
  if (w.of[last] == 0) last = static_cast<std::size_t>(std::max_element(w.of.begin(), w.of.end()) - w.of.begin());
  return static_cast<int32_t>(last);
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
  const bool drawn = config.temperature > 0, changed = changes(past, config);
  Weights w = weigh(logits, config.temperature, drawn && !changed);
  const double normalizer = w.normalizer;
  auto result = [&](int32_t id) { return Choice{id, logits[static_cast<std::size_t>(id)] - normalizer}; };
  std::vector<float> own;
  std::span<const float> z = logits;
  if (changed) {
    z = own = changed_by(logits, past, config);
    w = weigh(z, config.temperature, drawn);
  }
  if (!drawn) return result(static_cast<int32_t>(std::find(z.begin(), z.end(), w.highest) - z.begin()));
  if (config.top_k == 0 && config.top_p >= 1 && config.min_p == 0) return result(draw(w, rng));
  return result(draw(candidates(w.of, config), rng));
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
  const double normalizer = sampler_file::weigh(logits, 1, false).normalizer;
  std::vector<Choice> out;
  for (int32_t id : ids) out.push_back({id, logits[static_cast<std::size_t>(id)] - normalizer});
  return out;
}

}  // namespace rattan::infer
