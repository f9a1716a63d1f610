// Language models in and out of folders.
#pragma once
#include <ATen/core/Tensor.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "rattan/data/tokenizer.h"
#include "rattan/models/language_model.h"
#include "rattan/ops/fp8.h"

namespace rattan::models {

struct LoadOptions {
  at::Device device = at::kCPU;
  // Type of the products. Default: bf16 on a GPU; on a processor fp32, but bf16 for weights that are stored so
  // where the processor multiplies bf16 itself.
  std::optional<at::ScalarType> compute;
  ops::Fp8 fp8 = ops::Fp8::off;  // of the projections; beside bf16 alone
  bool cache_in_8_bits = false;  // keys and values of states (Model)
  // Keep every weight in fp32, as training needs. Otherwise matrices are held in the computing type.
  bool trainable = false;
};

struct LoadedModel {
  std::filesystem::path folder;  // where config.json was found
  std::unique_ptr<LanguageModel> model;
  std::unique_ptr<Tokenizer> tokenizer;  // nullptr where the folder has none
  std::string precision;                 // a name of precision_named
};

// The folder that holds config.json: `path` itself or, for a training run, its latest finished checkpoint.
// InputError if there is none.
std::filesystem::path model_folder(const std::filesystem::path& path);

// InputError for a missing or damaged file, weights that are not those of the configuration, or a tokenizer of
// another vocabulary than the model was made for.
LoadedModel load_language_model(const std::filesystem::path& path, const LoadOptions& options = {});

// What a model folder holds, without its weights. The same InputErrors.
struct StoredModel {
  std::filesystem::path folder;
  LanguageModelConfig config;
  std::unique_ptr<Tokenizer> tokenizer;
};
StoredModel stored_language_model(const std::filesystem::path& path);

// Writes config.json, the weights in fp32 and the tokenizer (if any).
void save_language_model(const std::filesystem::path& folder, LanguageModel& model, const Tokenizer* tokenizer);

// The type in which a model's parameter is held: norms, biases and the embedding are read in fp32, which the residual
// stream is; other matrices only ever in the computing type.
at::ScalarType held_type(const std::string& name, const nn::Param& param, at::ScalarType compute, bool trainable);

// "cpu", "cuda", "cuda:1". InputError for other names and for a device that is not there, with the reason.
at::Device device_named(const std::string& name);
// "auto" (nothing), "fp32", "bf16". InputError for others.
std::optional<at::ScalarType> dtype_named(const std::string& name);
const char* name_of(at::ScalarType dtype);  // "fp32", "bf16", "fp64"

// The type of a model's products. fp8: those of the stack's projections are made in e4m3 (ops/fp8.h), all else in bf16.
struct Precision {
  std::optional<at::ScalarType> compute;
  ops::Fp8 fp8 = ops::Fp8::off;
};
// As dtype_named, or "fp8", or "fp8_emulated". InputError for others.
Precision precision_named(const std::string& name);

}  // namespace rattan::models
