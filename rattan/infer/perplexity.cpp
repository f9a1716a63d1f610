#include "rattan/infer/perplexity.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <numbers>

#include "rattan/base/error.h"
#include "rattan/infer/context.h"

namespace rattan::infer {
namespace perplexity_file {

struct Window {
  int64_t begin = 0, length = 0;  // inputs [begin, begin + length), targets one later
  int64_t fresh = 0;              // the last `fresh` targets were not predicted before
};

std::vector<Window> windows(int64_t tokens, const PerplexityConfig& config) {
  std::vector<Window> out;
  const int64_t inputs = tokens - 1;
  int64_t done = 0;
  for (int64_t begin = 0; done < inputs; begin += config.stride) {
    const int64_t end = std::min(begin + config.context, inputs);
    out.push_back({begin, end - begin, end - done});
    done = end;
  }
  return out;
}

// Windows from nothing. What a cache in 8 bits does to predictions shows where a state is read.
at::Tensor read(models::Model& model, const at::Tensor& ids) {
  const int64_t rows = ids.size(0), length = ids.size(1);
  if (!model.cache_in_8_bits) {
    const nn::Layout layout = nn::Layout::uniform(rows, length, ids.device());
    nn::Call call{layout};
    return model.forward({ids, {}}, call);
  }
  std::vector<nn::Segment> segments;
  for (int32_t row = 0; row < rows; ++row)
    segments.push_back({.row = row, .end = static_cast<int32_t>(length), .doc = row, .from = -1, .to = row});
  const nn::Layout layout(rows, length, std::move(segments), ids.device());
  nn::Call call{layout};
  nn::State state = nn::make_state(model.state_spec(), rows, length, model.compute, ids.device());
  return model.extend({ids, {}}, state, call);
}

// -log p of every target of equally long windows, [windows, length] on the host.
at::Tensor losses(models::Model& model, std::span<const int32_t> ids, std::span<const Window> batch,
                  at::Device device) {
  const int64_t rows = static_cast<int64_t>(batch.size()), length = batch.front().length;
  at::Tensor both = at::empty({2, rows, length}, at::kLong);
  auto values = both.accessor<int64_t, 3>();
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t t = 0; t < length; ++t) {
      const auto at = static_cast<std::size_t>(batch[static_cast<std::size_t>(row)].begin + t);
      values[0][row][t] = ids[at];
      values[1][row][t] = ids[at + 1];
    }
  }
  both = both.to(device);
  const at::Tensor h = read(model, both[0]);
  return target_scores(model, h.flatten(0, 1), both[1].flatten()).neg().view({rows, length});
}

struct Sum {
  int64_t tokens = 0;
  double nats = 0;
};

}  // namespace perplexity_file

double Perplexity::perplexity() const { return std::exp(loss()); }
double Perplexity::bits_per_byte(double bytes) const { return nats / std::numbers::ln2 / bytes; }

Perplexity perplexity(models::Model& model, std::span<const int32_t> ids, const PerplexityConfig& config,
                      const std::function<void(int64_t, int64_t)>& progress) {
  using namespace perplexity_file;
  const auto tokens = static_cast<int64_t>(ids.size());
  require(config.context >= 1, "the context must be at least 1 token, got {}", config.context);
  require(config.stride >= 1 && config.stride <= config.context,
          "the stride must be between 1 and the context ({}), got {}; a larger one would leave tokens out",
          config.context, config.stride);
  require(tokens >= 2, "the text has {} token{}; a perplexity needs at least 2", tokens, tokens == 1 ? "" : "s");
  at::NoGradGuard no_grad;
  const at::Device device = device_of(model);
  const std::vector<Window> all = windows(tokens, config);
  std::vector<Sum> by_range(64);
  Perplexity result;
  for (std::size_t first = 0; first < all.size();) {
    std::size_t last = first + 1;
    while (last < all.size() && all[last].length == all[first].length &&
           static_cast<int64_t>(last + 1 - first) * all[first].length <= config.batch_tokens)
      ++last;
    const std::span<const Window> batch(all.data() + first, last - first);
    const at::Tensor loss = losses(model, ids, batch, device);
    auto values = loss.accessor<float, 2>();
    for (std::size_t row = 0; row < batch.size(); ++row) {
      for (int64_t t = batch[row].length - batch[row].fresh; t < batch[row].length; ++t) {
        const double nats = values[static_cast<int64_t>(row)][t];
        Sum& range = by_range[static_cast<std::size_t>(std::bit_width(static_cast<uint64_t>(t)))];
        ++range.tokens;
        range.nats += nats;
        ++result.tokens;
        result.nats += nats;
      }
    }
    first = last;
    if (progress) progress(result.tokens, tokens - 1);
  }
  for (std::size_t i = 0; i < by_range.size(); ++i) {
    const Sum& sum = by_range[i];
    if (sum.tokens == 0) continue;
    const int64_t to = int64_t{1} << i, from = i == 0 ? 1 : to / 2 + 1;
    result.by_position.push_back(
        {from, std::min(to, config.context), sum.tokens, sum.nats / static_cast<double>(sum.tokens)});
  }
  return result;
}

}  // namespace rattan::infer
