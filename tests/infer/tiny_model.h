// A small model with fresh weights for the tests of this folder.
#pragma once
#include <memory>
#include <string>

#include "rattan/base/config.h"
#include "rattan/data/tokenizer.h"
#include "rattan/models/language_model.h"

namespace rattan::infer {

// RAT and sliding window by turns over bytes; large initial weights, so that tokens differ in probability.
inline models::LanguageModelConfig tiny_config(const std::string& overrides = "") {
  models::LanguageModelConfig config;
  ConfigTree tree = ConfigTree::from_text(R"(
[model]
vocab_size = 257
d_model = 32
n_layers = 2
pattern = ["rat", "local"]
init_std = 0.3
context = 64
[mixers.rat]
type = "rat"
n_heads = 4
n_groups = 2
chunk = 4
[mixers.local]
type = "swa"
n_heads = 4
window = 8
)",
                                          "tiny.toml");
  if (!overrides.empty()) tree.override_with({overrides});
  tree.read(config);
  return config;
}

// Two layers of the mixers that `mixers` describes, as a pattern over them says.
inline std::unique_ptr<models::LanguageModel> model_of(const std::string& pattern, const std::string& mixers) {
  models::LanguageModelConfig config;
  ConfigTree::from_text(R"(
[model]
vocab_size = 257
d_model = 32
n_layers = 2
init_std = 0.3
context = 64
pattern = )" + pattern + mixers,
                        "model.toml")
      .read(config);
  auto model = std::make_unique<models::LanguageModel>(config);
  model->initialize(3);
  return model;
}

struct NamedModel {
  std::string name;
  std::unique_ptr<models::LanguageModel> model;
};

inline std::unique_ptr<models::LanguageModel> tiny_model(uint64_t seed = 1) {
  auto model = std::make_unique<models::LanguageModel>(tiny_config());
  model->initialize(seed);
  return model;
}

}  // namespace rattan::infer
