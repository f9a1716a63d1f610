#include "rattan/cli/model_flags.h"

#include <ATen/Parallel.h>
#include <fmt/core.h>

#include <charconv>
#include <iostream>
#include <iterator>

#include "rattan/base/error.h"
#include "rattan/base/files.h"
#include "rattan/base/parallel.h"

namespace rattan::cli {

void ModelFlags::declare(CLI::App& verb) {
  verb.add_option("model", model, "a model folder, or the folder of a training run (its latest checkpoint)")
      ->required()
      ->type_name("MODEL");
  verb.add_option("--device", device, "cpu, cuda or cuda:<number>")->capture_default_str();
  verb.add_option(
          "--dtype", dtype,
          "type of the matrix products: fp32, bf16, fp8 (of the projections; a GPU of compute capability 9.0 on), "
          "fp8_emulated, or auto (cpu: fp32 unless the weights are stored in bf16 and the processor multiplies it; "
          "cuda: bf16)")
      ->capture_default_str();
  declare_cache(verb, cache);
  verb.add_option("--threads", threads, "processor threads; 0: one a core")->capture_default_str();
}

void declare_cache(CLI::App& verb, std::string& cache) {
  verb.add_option(
          "--cache", cache,
          "keys and values that a sequence's state holds: full (the type of the products), or 8bit (MXINT8: half "
          "of bf16's memory)")
      ->capture_default_str();
}

bool in_8_bits(const std::string& cache) {
  require(cache == "full" || cache == "8bit", "--cache must be full or 8bit, got '{}'", cache);
  return cache == "8bit";
}

void use_threads(int threads) {
  if (threads <= 0) return;
  set_threads(threads);
  at::set_num_threads(threads);
}

models::LoadedModel ModelFlags::load() const {
  require(threads >= 0, "--threads must be at least 0, got {}", threads);
  models::LoadOptions options;
  options.device = models::device_named(device);
  const models::Precision precision = models::precision_named(dtype);
  options.compute = precision.compute, options.fp8 = precision.fp8;
  options.cache_in_8_bits = in_8_bits(cache);
  use_threads(threads);
  return models::load_language_model(model, options);
}

void note(const std::string& text) { fmt::print(stderr, "{}\n", text); }
void warn(const std::string& text) { fmt::print(stderr, "warning: {}\n", text); }

const Tokenizer& tokenizer_of(const models::LoadedModel& loaded) {
  require(loaded.tokenizer != nullptr,
          "{} has no tokenizer, so text means nothing to it; put the tokenizer's file there (score takes --tokens)",
          loaded.folder.string());
  return *loaded.tokenizer;
}

std::string TextSource::one(const std::string& what) const {
  require(input.empty() || input == "-",
          "unexpected argument '{}'; the only one that may stand here is - (standard input)", input);
  const std::size_t given = texts.size() + (file.empty() ? 0 : 1) + (input.empty() ? 0 : 1);
  require(given == 1, "{} {}", what, given == 0 ? "is missing" : "is given more than once");
  if (!texts.empty()) return texts.front();
  if (!file.empty() && file != "-") return read_file(file);
  return {std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()};
}

std::vector<int32_t> parse_ids(const std::string& text) {
  std::vector<int32_t> ids;
  const char *at = text.data(), *end = at + text.size();
  auto skip = [&] {
    while (at < end && (*at == ' ' || *at == '\n' || *at == '\t')) ++at;
  };
  for (skip(); at < end; skip()) {
    int32_t id = 0;
    const auto [next, error] = std::from_chars(at, end, id);
    if (error == std::errc::result_out_of_range)
      fail_input("--tokens: the number at character {} is too large for a token id", at - text.data());
    if (error != std::errc())
      fail_input("--tokens: expected a number at character {}, as in 1,2,3; got '{}'", at - text.data(),
                 std::string(at, std::min<std::ptrdiff_t>(end - at, 12)));
    ids.push_back(id);
    at = next;
    skip();
    if (at == end) break;
    require(*at == ',', "--tokens: expected a comma at character {}, got '{}'", at - text.data(), *at);
    ++at;
    skip();
    require(at < end, "--tokens: the list ends with a comma");
  }
  return ids;
}

}  // namespace rattan::cli
