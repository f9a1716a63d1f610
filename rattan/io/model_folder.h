// A model as a folder: config.json (the configuration tree, config_json.h), model.safetensors (the weights) and the
// tokenizer's files. A folder without config.json is no model: it is written last.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>

#include "rattan/base/config.h"
#include "rattan/io/safetensors.h"

namespace rattan {

inline constexpr const char* kConfigFile = "config.json";
inline constexpr const char* kWeightsFile = "model.safetensors";

// Key of the weights' metadata that holds the fingerprint of the vocabulary the model was made for.
inline constexpr const char* kVocabularyKey = "vocabulary";

// Writes config.json and model.safetensors, making the folder if need be. Tokenizer files are saved by their owner,
// before this. On failure the folder has no config.json that it did not have before.
void save_model(const std::filesystem::path& folder, const std::function<void(Fields&)>& config,
                const std::map<std::string, at::Tensor>& tensors,
                const std::map<std::string, std::string>& metadata = {});

// Compares names and shapes of a file with what a model needs. InputError lists, a few of each, the tensors that are
// missing, of another shape (found and expected) or unknown to the model.
void check_tensors(const SafetensorsFile& file, const std::map<std::string, Shape>& expected);

// InputError if the vocabulary is not the one the model was made for, or has ids that the model lacks. A model may
// have more ids than its vocabulary (padding). `model_fingerprint` may be "" where none was recorded.
void check_vocabulary(const std::filesystem::path& folder, const std::string& model_fingerprint, int64_t model_size,
                      const std::string& fingerprint, int64_t size);

class ModelFolder {
 public:
  // InputError names the folder and the piece that is missing or damaged, and a folder near by that is a model.
  explicit ModelFolder(const std::filesystem::path& folder);

  const std::filesystem::path& path() const { return path_; }
  const ConfigTree& config() const { return config_; }
  const SafetensorsFile& weights() const { return weights_; }
  std::string vocabulary() const;  // fingerprint, "" if none was recorded

  // Fills every tensor by name, converting types; nothing is touched unless all names and shapes agree.
  void load(const std::map<std::string, at::Tensor>& targets) const;

 private:
  std::filesystem::path path_;
  ConfigTree config_;
  SafetensorsFile weights_;
};

}  // namespace rattan
