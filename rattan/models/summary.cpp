#include "rattan/models/summary.h"

#include <algorithm>

namespace rattan::models {
namespace summary_file {

// "layers.3.mixer.in_proj.weight" belongs to the mixer whose turn layer 3 is.
std::string part_of(const std::string& parameter, const LanguageModelConfig& config) {
  if (parameter.starts_with("embed.")) return "embedding";
  if (parameter.starts_with("lm_head.")) return "output";
  const std::string layers = "layers.";
  if (!parameter.starts_with(layers)) return "norms";
  const std::size_t dot = parameter.find('.', layers.size());
  const auto layer = std::stoull(parameter.substr(layers.size(), dot - layers.size()));
  const std::string rest = parameter.substr(dot + 1);
  if (rest.starts_with("mixer.")) return "mixer " + config.pattern[layer % config.pattern.size()];
  return rest.starts_with("ffn.") ? "feed-forward" : "norms";
}

AtLength at_length(const LanguageModel& model, const nn::StateSpec& spec, int64_t tokens, at::ScalarType compute) {
  const double forward = model.flops_per_token(tokens);
  return {tokens, spec.bytes(tokens, compute), forward, 3 * forward};
}

}  // namespace summary_file

Summary summarize(const LanguageModelConfig& config, const std::vector<int64_t>& lengths, at::ScalarType compute) {
  using namespace summary_file;
  LanguageModel model(config);
  Summary out;
  std::vector<std::string> order = {"embedding"};
  for (const std::string& name : config.pattern)
    if (std::find(order.begin(), order.end(), "mixer " + name) == order.end()) order.push_back("mixer " + name);
  order.insert(order.end(), {"feed-forward", "norms", "output"});
  for (const std::string& name : order) out.parts.push_back({name, 0});
  model.each_param([&](const std::string& name, nn::Param& param) {
    const auto part = std::find(order.begin(), order.end(), part_of(name, config));
    out.parts[static_cast<std::size_t>(part - order.begin())].parameters += param.numel();
    out.parameters += param.numel();
  });
  std::erase_if(out.parts, [](const Part& part) { return part.parameters == 0; });
  const nn::StateSpec spec = model.state_spec();
  for (int64_t tokens : lengths) out.lengths.push_back(at_length(model, spec, tokens, compute));
  out.fp8_obstacle = nn::fp8_obstacle(model.stack());
  out.at_context = at_length(model, spec, config.context, compute);
  return out;
}

}  // namespace rattan::models
