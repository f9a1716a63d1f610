#include "rattan/infer/score.h"

#include <algorithm>

#include "rattan/base/error.h"
#include "rattan/infer/context.h"

namespace rattan::infer {

void check_ids(std::span<const int32_t> ids, int64_t vocab_size) {
  for (std::size_t i = 0; i < ids.size(); ++i)
    require(ids[i] >= 0 && ids[i] < vocab_size, "token {} has the id {}; the model knows 0 to {}", i, ids[i],
            vocab_size - 1);
}

std::vector<double> score(models::Model& model, std::span<const int32_t> ids, const ScoreConfig& config) {
  require(config.chunk >= 1, "a chunk must hold at least 1 token, got {}", config.chunk);
  std::vector<double> out;
  if (ids.size() < 2) return out;
  if (config.trained_context > 0 && static_cast<int64_t>(ids.size()) > config.trained_context && config.warn)
    config.warn(fmt::format("the text has {} tokens, more than the {} that this model was trained on", ids.size(),
                            config.trained_context));
  // The last token is predicted but never read.
  const std::span<const int32_t> inputs = ids.first(ids.size() - 1), targets = ids.subspan(1);
  Context context(model, 1, static_cast<int64_t>(inputs.size()));
  for (std::size_t at = 0; at < inputs.size(); at += static_cast<std::size_t>(config.chunk)) {
    const std::size_t n = std::min(inputs.size() - at, static_cast<std::size_t>(config.chunk));
    const Context::Piece piece{0, inputs.subspan(at, n)};
    const at::Tensor h = context.extend({&piece, 1});
    const at::Tensor scores = target_scores(model, h, ids_tensor(targets.subspan(at, n), context.device()));
    const float* values = scores.const_data_ptr<float>();
    out.insert(out.end(), values, values + n);
  }
  return out;
}

}  // namespace rattan::infer
