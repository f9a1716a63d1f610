// rattan train CONFIG [key=value ...]: trains a language model, or continues a run.
#include <memory>
#include <nlohmann/json.hpp>

#include "rattan/base/error.h"
#include "rattan/cli/model_flags.h"
#include "rattan/cli/training_session.h"

namespace rattan::cli {
namespace train_file {

namespace fs = std::filesystem;

struct Flags : TrainingFlags {
  std::string config;
  std::vector<std::string> overrides;
  bool dump = false, json = false;
  int64_t verify = 0;
};

// With the configuration left out, the first of "key=value ..." lands in its place.
void sort_positionals(Flags& flags) {
  std::error_code none;
  if (flags.config.find('=') != std::string::npos && !fs::exists(flags.config, none)) {
    flags.overrides.insert(flags.overrides.begin(), flags.config);
    flags.config.clear();
  }
  if (flags.out.empty() && !flags.config.empty())
    flags.out = (fs::path("runs") / fs::path(flags.config).stem()).string();
  require(!flags.resume || !flags.out.empty(), "--resume needs the run's folder: --out DIR");
  require(!flags.from || flags.resume, "--from STEP goes with --resume");
}

// A run that is continued keeps the configuration it was started with.
ConfigFile read_configuration(Flags& flags) {
  std::error_code none;
  const fs::path stored = fs::path(flags.out) / "config.toml";
  if (flags.resume && fs::exists(stored, none)) {
    if (!flags.config.empty()) note(fmt::format("continuing with {}; {} is not read", stored.string(), flags.config));
    flags.config = stored.string();
  }
  require(!flags.config.empty(), "name a configuration: rattan train CONFIG [key=value ...]");
  ConfigFile config = read_config_file(flags.config, flags.overrides);
  config.model.context = config.data.seq_len;
  return config;
}

void prove_resume(const Flags& flags, const ConfigFile& config) {
  TrainingSession session(config);
  fs::path folder = flags.out.empty() ? fs::path("runs/verify-resume") : fs::path(flags.out);
  folder += ".verify-resume";
  auto proof = train::verify_resume([&] { return session.start(); }, config.train, flags.verify, folder);
  if (flags.json) {
    print_json({{"steps", 2 * flags.verify},
                {"resumed_after", flags.verify},
                {"tensors", proof.tensors},
                {"differences", proof.differences},
                {"equal", proof.differences.empty()}});
  }
  if (!proof.differences.empty()) {
    fail("resuming after step {} is not exact: {} of {} tensors and positions differ, {} first", flags.verify,
         proof.differences.size(), proof.tensors, proof.differences.front());
  }
  note(fmt::format("{} steps in one go and {} + resume + {} agree bit for bit in all {} tensors", 2 * flags.verify,
                   flags.verify, flags.verify, proof.tensors));
}

void run(Flags flags) {
  sort_positionals(flags);
  ConfigFile config = read_configuration(flags);
  if (flags.dump) {
    fmt::print("{}", to_text(config));
    return;
  }
  if (flags.verify > 0) return prove_resume(flags, config);
  const train::RunResult result = run_training(config, flags);
  if (flags.json) return print_json(training_json(flags, result));
  note(training_summary(config, flags, result));
}

void declare(CLI::App& verb) {
  auto flags = std::make_shared<Flags>();
  verb.add_option("config", flags->config, "a TOML file (docs/configuration.md); left out with --resume")
      ->type_name("CONFIG");
  verb.add_option("overrides", flags->overrides, "settings laid over it: train.lr=3e-4")->type_name("KEY=VALUE");
  verb.add_option("--out", flags->out, "the run's folder (default: runs/<name of CONFIG>)")->type_name("DIR");
  verb.add_flag("--resume", flags->resume, "continue the run in --out from its newest checkpoint, if there is one");
  verb.add_option("--from", flags->from, "with --resume: continue from the checkpoint of this step")->type_name("STEP");
  verb.add_option("--verify-resume", flags->verify,
                  "prove that 2K steps equal K steps, a restart from files and K more, bit for bit")
      ->type_name("K")
      ->check(CLI::PositiveNumber);
  verb.add_flag("--dump-config", flags->dump, "print the configuration with every key and stop");
  verb.add_flag("--quiet", flags->quiet, "no progress");
  verb.add_flag("--json", flags->json, "print one JSON document at the end");
  verb.callback([flags] { run(*flags); });
}

}  // namespace train_file

extern const Verb train_verb;
const Verb train_verb = {"train", "train a language model, or continue a run", train_file::declare};

}  // namespace rattan::cli
