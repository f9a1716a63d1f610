#include "rattan/io/model_folder.h"

#include <nlohmann/json.hpp>
#include <vector>

#include "rattan/base/config_json.h"
#include "rattan/base/error.h"
#include "rattan/base/files.h"
#include "rattan/io/checkpoint.h"
#include "rattan/io/safetensors_tensors.h"

namespace rattan {
namespace model_folder_file {

namespace fs = std::filesystem;

bool is_model(const fs::path& folder) {
  std::error_code none;
  return fs::is_regular_file(folder / kConfigFile, none) && fs::is_regular_file(folder / kWeightsFile, none);
}

// People pass a run folder, its checkpoints or a file of the model; say which folder they mean.
std::string hint(const fs::path& path) {
  std::error_code none;
  fs::path parent = path.parent_path().empty() ? fs::path(".") : path.parent_path();
  if (fs::is_regular_file(path, none) && is_model(parent))
    return fmt::format("; its folder {} is one", parent.string());
  if (!fs::is_directory(path, none)) return "";
  for (const fs::path& root : {path, path / "checkpoints"}) {
    auto latest = latest_checkpoint(root);
    if (latest && is_model(latest->folder)) return fmt::format("; {} is one", latest->folder.string());
  }
  return "";
}

fs::path checked(const fs::path& folder) {
  std::error_code none;
  if (!fs::exists(folder, none)) fail_input("the model folder {} does not exist", folder.string());
  if (!fs::is_directory(folder, none)) {
    fail_input("{} is a file; a model is a folder with {} and {}{}", folder.string(), kConfigFile, kWeightsFile,
               hint(folder));
  }
  for (const char* name : {kConfigFile, kWeightsFile}) {
    if (!fs::exists(folder / name, none)) {
      fail_input("{} is not a model: it has no {}{}", folder.string(), name, hint(folder));
    }
  }
  return folder;
}

// "a, b, c and 7 more"
std::string few(const std::vector<std::string>& items) {
  constexpr std::size_t kShown = 4;
  std::string out;
  for (std::size_t i = 0; i < items.size() && i < kShown; ++i) out += (i == 0 ? "" : ", ") + items[i];
  if (items.size() > kShown) out += fmt::format(" and {} more", items.size() - kShown);
  return out;
}

}  // namespace model_folder_file

void save_model(const std::filesystem::path& folder, const std::function<void(Fields&)>& config,
                const std::map<std::string, at::Tensor>& tensors, const std::map<std::string, std::string>& metadata) {
  std::error_code code;
  bool made = std::filesystem::create_directories(folder, code);
  if (code) fail("cannot create the folder {}: {}", folder.string(), code.message());
  try {
    std::string text = to_json(config).dump(2) + "\n";
    save_tensors(folder / kWeightsFile, tensors, metadata);
    write_file(folder / kConfigFile, text);
  } catch (...) {
    if (made) std::filesystem::remove_all(folder, code);
    throw;
  }
}

void check_tensors(const SafetensorsFile& file, const std::map<std::string, Shape>& expected) {
  using namespace model_folder_file;
  std::vector<std::string> missing, unknown, differing;
  for (const auto& [name, shape] : expected) {
    const StoredTensor* found = file.find(name);
    if (found == nullptr) {
      missing.push_back(name);
    } else if (found->shape != shape) {
      differing.push_back(fmt::format("{} (found {}, expected {})", name, shape_text(found->shape), shape_text(shape)));
    }
  }
  for (const StoredTensor& tensor : file.tensors()) {
    if (!expected.contains(tensor.name)) unknown.push_back(tensor.name);
  }
  std::string said;
  auto say = [&](const char* what, const std::vector<std::string>& items) {
    if (!items.empty()) said += fmt::format("; {} {}: {}", items.size(), what, few(items));
  };
  say("missing", missing);
  say("of another shape", differing);
  say("unknown to the model", unknown);
  if (!said.empty()) {
    fail_input("{}: the tensors are not those of the configured model{}. Is {} the one it was saved with?",
               file.source(), said, kConfigFile);
  }
}

void check_vocabulary(const std::filesystem::path& folder, const std::string& model_fingerprint, int64_t model_size,
                      const std::string& fingerprint, int64_t size) {
  if (!model_fingerprint.empty() && model_fingerprint != fingerprint) {
    fail_input("{}: the model was made for the vocabulary {}, this one is {}; use the tokenizer it was trained with",
               folder.string(), model_fingerprint, fingerprint);
  }
  if (size > model_size) {
    fail_input("{}: the vocabulary has {} tokens, the model knows {}; use the tokenizer it was trained with",
               folder.string(), size, model_size);
  }
}

ModelFolder::ModelFolder(const std::filesystem::path& folder)
    : path_(model_folder_file::checked(folder)),
      config_(config_from_json(read_file(path_ / kConfigFile), (path_ / kConfigFile).string())),
      weights_(path_ / kWeightsFile) {}

std::string ModelFolder::vocabulary() const {
  auto at = weights_.metadata().find(kVocabularyKey);
  return at == weights_.metadata().end() ? "" : at->second;
}

void ModelFolder::load(const std::map<std::string, at::Tensor>& targets) const {
  std::map<std::string, Shape> expected;
  for (const auto& [name, tensor] : targets) expected.emplace(name, tensor.sizes().vec());
  check_tensors(weights_, expected);
  for (const auto& [name, tensor] : targets) load_into(tensor, *weights_.find(name), weights_.source());
}

}  // namespace rattan
