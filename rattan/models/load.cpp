#include "rattan/models/load.h"

#include <ATen/Context.h>

#include <algorithm>

#include "rattan/base/error.h"
#include "rattan/io/checkpoint.h"
#include "rattan/io/model_folder.h"
#include "rattan/io/safetensors_tensors.h"
#include "rattan/kernels/cpu/isa.h"

namespace rattan::models {
namespace load_file {

namespace fs = std::filesystem;

bool has_bf16_products() {
  const auto isas = kernels::supported_isas();
  return std::find(isas.begin(), isas.end(), kernels::Isa::avx512bf16) != isas.end();
}

at::ScalarType computing_type(const ModelFolder& folder, const LoadOptions& options) {
  if (options.compute) return *options.compute;
  if (options.device.is_cuda()) return at::kBFloat16;
  const auto& tensors = folder.weights().tensors();
  const bool stored_bf16 = std::any_of(tensors.begin(), tensors.end(), [](const StoredTensor& tensor) {
    return tensor.shape.size() > 1 && tensor.type == StoredType::bf16;
  });
  return stored_bf16 && has_bf16_products() ? at::kBFloat16 : at::kFloat;
}

std::map<std::string, at::Tensor> tensors_of(LanguageModel& model) {
  std::map<std::string, at::Tensor> tensors;
  model.each_param([&](const std::string& name, nn::Param& param) { tensors[name] = param.master(); });
  model.each_buffer([&](const std::string& name, nn::Buffer& buffer) {
    if (buffer.persistent) tensors[name] = buffer.value;
  });
  return tensors;
}

std::unique_ptr<Tokenizer> tokenizer_of(const ModelFolder& folder, const LanguageModelConfig& config) {
  const bool there =
      std::any_of(fs::directory_iterator(folder.path()), fs::directory_iterator(), [](const auto& entry) {
        return entry.path().extension() == ".model" || entry.path().filename().string().starts_with("tokenizer.");
      });
  if (!there) return nullptr;
  auto tokenizer = load_tokenizer(folder.path());
  check_vocabulary(folder.path(), folder.vocabulary(), config.vocab_size, tokenizer->fingerprint(),
                   tokenizer->vocab_size());
  return tokenizer;
}

struct Opened {
  std::unique_ptr<LanguageModel> model;  // without weights
  std::unique_ptr<Tokenizer> tokenizer;
};

// Compares the shapes of what is stored with the configuration before any memory is asked for, which a wrong
// configuration could ask for in absurd amounts.
Opened open(const ModelFolder& folder) {
  LanguageModelConfig config;
  folder.config().read(config);
  config.validate();
  Opened out;
  out.tokenizer = tokenizer_of(folder, config);
  out.model = std::make_unique<LanguageModel>(std::move(config));
  std::map<std::string, Shape> shapes;
  out.model->each_param([&](const std::string& name, nn::Param& param) { shapes[name] = param.shape(); });
  out.model->each_buffer([&](const std::string& name, nn::Buffer& buffer) {
    if (buffer.persistent) shapes[name] = buffer.value.sizes().vec();
  });
  check_tensors(folder.weights(), shapes);
  return out;
}

}  // namespace load_file

at::ScalarType held_type(const std::string& name, const nn::Param& param, at::ScalarType compute, bool trainable) {
  if (compute == at::kDouble) return at::kDouble;
  const bool read_fp32 = param.keep_fp32 || param.shape().size() < 2 || name.starts_with("embed.");
  return trainable || read_fp32 ? at::kFloat : compute;
}

std::filesystem::path model_folder(const std::filesystem::path& path) {
  std::error_code none;
  for (const auto& root : {path, path / "checkpoints"}) {
    if (std::filesystem::exists(root / kConfigFile, none)) return root;
    if (!std::filesystem::is_directory(root, none)) continue;
    if (auto latest = latest_checkpoint(root)) return latest->folder;
  }
  return path;  // ModelFolder says what is wrong with it
}

StoredModel stored_language_model(const std::filesystem::path& path) {
  const ModelFolder folder(model_folder(path));
  load_file::Opened opened = load_file::open(folder);
  return {folder.path(), opened.model->config(), std::move(opened.tokenizer)};
}

LoadedModel load_language_model(const std::filesystem::path& path, const LoadOptions& options) {
  using namespace load_file;
  const ModelFolder folder(model_folder(path));
  ops::require_fp8(options.fp8, options.device);
  Opened opened = open(folder);
  LanguageModel& model = *opened.model;
  model.compute = computing_type(folder, options);
  model.cache_in_8_bits = options.cache_in_8_bits;
  nn::set_fp8(model.stack(), options.fp8, options.device);
  model.each_param([&](const std::string& name, nn::Param& param) {
    param.allocate(held_type(name, param, model.compute, options.trainable), options.device);
  });
  model.each_buffer([&](const std::string&, nn::Buffer& buffer) { buffer.value = buffer.value.to(options.device); });
  folder.load(tensors_of(model));
  model.each_param([](const std::string&, nn::Param& param) { param.changed(); });
  const std::string precision = options.fp8 == ops::Fp8::off  ? name_of(model.compute)
                                : options.fp8 == ops::Fp8::on ? "fp8"
                                                              : "fp8_emulated";
  return {folder.path(), std::move(opened.model), std::move(opened.tokenizer), precision};
}

void save_language_model(const std::filesystem::path& folder, LanguageModel& model, const Tokenizer* tokenizer) {
  std::map<std::string, std::string> metadata;
  if (tokenizer) {
    std::error_code code;
    std::filesystem::create_directories(folder, code);
    if (code) fail("cannot create the folder {}: {}", folder.string(), code.message());
    tokenizer->save(folder);
    metadata[kVocabularyKey] = tokenizer->fingerprint();
  }
  LanguageModelConfig config = model.config();
  save_model(
      folder, [&](Fields& f) { config.fields(f); }, load_file::tensors_of(model), metadata);
}

at::Device device_named(const std::string& name) {
  std::optional<at::Device> device;
  try {
    device.emplace(name);
  } catch (const std::exception&) {
    fail_input("unknown device '{}'; known are cpu, cuda and cuda:<number>", name);
  }
  if (device->is_cpu()) return at::kCPU;
  require(device->is_cuda(), "unknown device '{}'; known are cpu, cuda and cuda:<number>", name);
#ifndef RATTAN_WITH_CUDA
  fail_input("the device '{}' needs the CUDA kernels, and this rattan was built without them (./dev cuda builds them)",
             name);
#endif
  require(at::Context::hasCUDA(), "torch finds no CUDA device for '{}'; `rattan doctor` says why", name);
  const c10::DeviceIndex there = at::globalContext().getAcceleratorHooksInterface(at::kCUDA).deviceCount();
  require(!device->has_index() || device->index() < there, "there is no device '{}': {} found, counted from 0", name,
          int{there});
  return at::Device(at::kCUDA, device->has_index() ? device->index() : 0);
}

std::optional<at::ScalarType> dtype_named(const std::string& name) {
  if (name == "auto") return std::nullopt;
  if (name == "fp32") return at::kFloat;
  if (name == "bf16") return at::kBFloat16;
  fail_input("unknown type '{}'; known are auto, fp32 and bf16", name);
}

Precision precision_named(const std::string& name) {
  if (name == "fp8") return {at::kBFloat16, ops::Fp8::on};
  if (name == "fp8_emulated") return {at::kBFloat16, ops::Fp8::emulated};
  require(name == "auto" || name == "fp32" || name == "bf16",
          "unknown type '{}'; known are auto, fp32, bf16, fp8 and fp8_emulated", name);
  return {dtype_named(name)};
}

const char* name_of(at::ScalarType dtype) {
  return dtype == at::kBFloat16 ? "bf16" : dtype == at::kDouble ? "fp64" : "fp32";
}

}  // namespace rattan::models
