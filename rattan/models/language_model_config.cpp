#include <fmt/ranges.h>

#include "rattan/base/config.h"
#include "rattan/base/error.h"
#include "rattan/models/language_model.h"

namespace rattan::models {
namespace language_model_config_file {

// The keys of [model], as a table of its own.
struct ModelTable {
  LanguageModelConfig& c;
  void fields(Fields& f) {
    f("vocab_size", c.vocab_size, "number of token ids", at_least(1));
    f("d_model", c.d_model, "width of the residual stream", at_least(1));
    f("n_layers", c.n_layers, "number of blocks", at_least(1));
    f("pattern", c.pattern, "names of mixers over depth, repeated");
    f.table("ffn", c.ffn, "feed-forward layer of every block");
    f("tie_embeddings", c.tie_embeddings, "use the input embedding as output matrix");
    f("norm_eps", c.norm_eps, "epsilon of every RMSNorm", above(0));
    f("dropout", c.dropout, "probability of dropping an element of a branch's output in training", between(0, 0.99));
    f("init_std", c.init_std, "standard deviation of fresh matrices and embeddings", above(0));
    f("context", c.context, "tokens the model is trained for; longer ones work with a warning", at_least(1));
  }
};

}  // namespace language_model_config_file

void FfnConfig::fields(Fields& f) {
  f("type", type, "activation of the feed-forward layer; none: blocks without one", one_of({"gelu", "swiglu", "none"}));
  f("hidden", hidden, "width inside; 0: 4 d_model", at_least(0));
}

void LanguageModelConfig::fields(Fields& f) {
  language_model_config_file::ModelTable table{*this};
  f.table("model", table, "the model");
  f.named("mixers", mixers, "named mixers that `model.pattern` refers to");
}

void LanguageModelConfig::validate() {
  require(!pattern.empty(), "model.pattern is empty; name at least one mixer");
  std::vector<std::string> known;
  for (const auto& [name, mixer] : mixers) known.push_back(name);
  for (const std::string& name : pattern) {
    if (mixers.contains(name)) continue;
    const std::string near = nearest(name, known);
    fail_input("model.pattern names the mixer '{}', but there is no table [mixers.{}]; there are: {}{}", name, name,
               known.empty() ? "none" : fmt::format("{}", fmt::join(known, ", ")),
               near.empty() ? "" : fmt::format(" (did you mean '{}'?)", near));
  }
}

}  // namespace rattan::models
