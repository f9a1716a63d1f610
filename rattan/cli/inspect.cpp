// rattan inspect CONFIG|MODEL: what a model is made of, without its weights.
#include <memory>
#include <nlohmann/json.hpp>

#include "rattan/base/config.h"
#include "rattan/base/error.h"
#include "rattan/base/files.h"
#include "rattan/cli/config_file.h"
#include "rattan/cli/model_flags.h"
#include "rattan/io/model_folder.h"
#include "rattan/models/summary.h"

namespace rattan::cli {
namespace inspect_file {

namespace fs = std::filesystem;

struct Flags {
  std::string path, dtype = "bf16";
  std::vector<std::string> overrides;
  std::vector<int64_t> lengths = {1024, 4096, 16384, 65536, 262144};
  bool json = false;
};

struct Subject {
  models::LanguageModelConfig config;
  std::string kind;                      // "config" or "model"
  fs::path folder;                       // of a model
  std::unique_ptr<Tokenizer> tokenizer;  // of a model that has one
};

Subject read(const Flags& flags) {
  Subject out;
  std::error_code none;
  require(fs::exists(flags.path, none), "{} does not exist; inspect takes a configuration file or a model folder",
          flags.path);
  if (!fs::is_directory(flags.path, none)) {
    out.kind = "config";
    out.config = read_config_file(flags.path, flags.overrides).model;
    return out;
  }
  require(flags.overrides.empty(), "settings such as '{}' can change a configuration file, not a model that is there",
          flags.overrides.empty() ? "" : flags.overrides.front());
  out.kind = "model";
  auto stored = models::stored_language_model(flags.path);
  out.folder = stored.folder;
  out.config = std::move(stored.config);
  out.tokenizer = std::move(stored.tokenizer);
  return out;
}

std::string grouped(int64_t n) {
  std::string out = std::to_string(n);
  for (auto at = static_cast<std::ptrdiff_t>(out.size()) - 3; at > 0; at -= 3)
    out.insert(static_cast<std::size_t>(at), ",");
  return out;
}

std::string bytes_text(int64_t bytes) {
  if (bytes < 10000) return fmt::format("{} B", bytes);
  if (bytes < 10000000) return fmt::format("{:.1f} kB", static_cast<double>(bytes) / 1e3);
  if (bytes < 10000000000) return fmt::format("{:.1f} MB", static_cast<double>(bytes) / 1e6);
  return fmt::format("{:.1f} GB", static_cast<double>(bytes) / 1e9);
}

std::string flops_text(double flops) {
  const char* units[] = {"", "k", "M", "G", "T"};
  std::size_t unit = 0;
  for (; flops >= 1000 && unit < 4; ++unit) flops /= 1000;
  return fmt::format("{:.3f} {}", flops, units[unit]);
}

void print_people(const Subject& subject, const Flags& flags, const models::Summary& s) {
  const auto& c = subject.config;
  if (subject.kind == "model") fmt::print("model        {}\n", subject.folder.string());
  fmt::print("shape        {} layers, width {}, {} token ids, trained for {} tokens\n", c.n_layers, c.d_model,
             c.vocab_size, c.context);
  if (subject.kind == "model")
    fmt::print("tokenizer    {}\n", subject.tokenizer ? subject.tokenizer->fingerprint() : "none");
  fmt::print("parameters   {}\n", grouped(s.parameters));
  for (const models::Part& part : s.parts) fmt::print("  {:<22} {:>15}\n", part.name, grouped(part.parameters));
  fmt::print("fp8          {}\n", s.fp8_obstacle.empty() ? "possible on GPUs of compute capability 9.0 on"
                                                         : "not possible: " + s.fp8_obstacle);
  fmt::print("\n{:>10}   {:>14}   {}\n", "tokens", "state (" + flags.dtype + ")", "training FLOPs a token");
  for (const models::AtLength& at : s.lengths)
    fmt::print("{:>10}   {:>14}   {:>14}\n", grouped(at.tokens), bytes_text(at.state_bytes),
               flops_text(at.training_flops));
}

void run(const Flags& flags) {
  for (int64_t length : flags.lengths) require(length >= 1, "--lengths must be at least 1, got {}", length);
  const auto dtype = models::dtype_named(flags.dtype);
  require(dtype.has_value(), "--dtype of a state must be fp32 or bf16, got '{}'", flags.dtype);
  const Subject subject = read(flags);
  const models::Summary s = models::summarize(subject.config, flags.lengths, *dtype);
  if (!flags.json) return print_people(subject, flags, s);
  nlohmann::json parts = nlohmann::json::object(), lengths = nlohmann::json::array();
  for (const models::Part& part : s.parts) parts[part.name] = part.parameters;
  for (const models::AtLength& at : s.lengths)
    lengths.push_back({{"tokens", at.tokens},
                       {"state_bytes", at.state_bytes},
                       {"forward_flops_per_token", at.forward_flops},
                       {"training_flops_per_token", at.training_flops}});
  nlohmann::json out = {{"path", flags.path},
                        {"kind", subject.kind},
                        {"parameters", s.parameters},
                        {"parameters_by_part", std::move(parts)},
                        {"vocab_size", subject.config.vocab_size},
                        {"d_model", subject.config.d_model},
                        {"n_layers", subject.config.n_layers},
                        {"pattern", subject.config.pattern},
                        {"context", subject.config.context},
                        {"training_flops_per_token", s.at_context.training_flops},
                        {"state_bytes", s.at_context.state_bytes},
                        {"state_dtype", flags.dtype},
                        {"fp8_possible", s.fp8_obstacle.empty()},
                        {"by_length", std::move(lengths)}};
  if (subject.kind == "model") {
    out["folder"] = subject.folder.string();
    out["tokenizer"] = subject.tokenizer ? nlohmann::json(subject.tokenizer->fingerprint()) : nlohmann::json(nullptr);
  }
  print_json(out);
}

void declare(CLI::App& verb) {
  auto flags = std::make_shared<Flags>();
  verb.add_option("path", flags->path, "a configuration file, a model folder, or the folder of a training run")
      ->required()
      ->type_name("CONFIG|MODEL");
  verb.add_option("overrides", flags->overrides, "settings laid over a configuration file: model.n_layers=4")
      ->type_name("KEY=VALUE");
  verb.add_option("--lengths", flags->lengths, "lengths for which state and FLOPs are shown")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->capture_default_str();
  verb.add_option("--dtype", flags->dtype, "type of the state: fp32 or bf16")->capture_default_str();
  verb.add_flag("--json", flags->json, "print one JSON document; top-level state and FLOPs are at the trained context");
  verb.footer(
      "Nothing of the size of the weights is allocated. Training FLOPs are three times those of the forward pass.");
  verb.callback([flags] { run(*flags); });
}

}  // namespace inspect_file

extern const Verb inspect_verb;
const Verb inspect_verb = {"inspect", "parameters, state and cost of a model or configuration", inspect_file::declare};

}  // namespace rattan::cli
