// rattan train CONFIG [key=value ...]: trains a language model, or continues a run.
#include <ATen/Parallel.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "rattan/base/config.h"
#include "rattan/base/error.h"
#include "rattan/base/parallel.h"
#include "rattan/cli/config_file.h"
#include "rattan/cli/model_flags.h"
#include "rattan/infer/generator.h"
#include "rattan/tasks/language_modelling/task.h"
#include "rattan/train/calibrate.h"
#include "rattan/train/run.h"
#include "rattan/train/verify_resume.h"

namespace rattan::cli {
namespace train_file {

namespace fs = std::filesystem;

struct Flags {
  std::string config, out;
  std::vector<std::string> overrides;
  bool resume = false, dump = false, json = false, quiet = false;
  std::optional<int64_t> from;
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

std::string to_text(ConfigFile config) {
  return to_toml([&](Fields& f) { config.fields(f); });
}

// One language model on its data.
struct Session {
  const ConfigFile& config;
  at::Device device;

  std::unique_ptr<tasks::LanguageModelling> task() const {
    auto made = std::make_unique<tasks::LanguageModelling>(config.data, static_cast<uint64_t>(config.train.seed));
    const int64_t size = made->tokenizer().vocab_size();
    require(size <= config.model.vocab_size,
            "model.vocab_size is {}, but the data's vocabulary has {} tokens; set model.vocab_size={}",
            config.model.vocab_size, size, size);
    return made;
  }
  std::unique_ptr<models::LanguageModel> model() const {
    auto made = std::make_unique<models::LanguageModel>(config.model);
    made->initialise(static_cast<uint64_t>(config.train.seed), at::kFloat, device);
    return made;
  }
  train::Start start() const {
    auto data = task();
    return {model(), std::move(data)};
  }
};

std::function<std::string(int64_t)> sampler(models::LanguageModel& model, const Tokenizer& tokenizer,
                                            const train::RunConfig& config) {
  return [&model, &tokenizer, &config](int64_t) {
    infer::Request request;
    request.prompt = tokenizer.encode(config.sample_prompt);
    request.max_tokens = config.sample_tokens;
    request.sampling.temperature = config.sample_temperature;
    request.end_token = tokenizer.eos();
    return config.sample_prompt + infer::Generator(model, tokenizer).run({request}).front().text;
  };
}

void calibrate(ConfigFile& config, const Session& session) {
  auto start = session.start();
  config.train.steps = train::calibrate_steps(*start.model, *start.task, config.train, config.run.minutes * 60);
  note(fmt::format("calibration: {} steps fit into {} minutes", config.train.steps, config.run.minutes));
  config.run.minutes = 0;  // the number is stored; a resumed run must not choose another
}

void prove_resume(const Flags& flags, const Session& session) {
  fs::path folder = flags.out.empty() ? fs::path("runs/verify-resume") : fs::path(flags.out);
  folder += ".verify-resume";
  auto proof = train::verify_resume([&] { return session.start(); }, session.config.train, flags.verify, folder);
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

void report(const Flags& flags, const ConfigFile& config, const train::RunResult& result) {
  if (flags.json) {
    return print_json({{"out", flags.out},
                       {"checkpoint", result.checkpoint.string()},
                       {"steps", result.fit.steps},
                       {"tokens", result.tokens},
                       {"seconds", result.seconds},
                       {"tokens_per_second", result.tokens_per_second},
                       {"mfu", result.flops_per_second / result.peak_flops},
                       {"peak_flops", result.peak_flops},
                       {"validation", result.fit.final_report}});
  }
  note(fmt::format("{}: {} steps, {} tokens in {}, {} tokens/s, {:.0f} % of {:.2f} TFLOP/s ({})", flags.out,
                   result.fit.steps, train::human_count(static_cast<double>(result.tokens)),
                   train::human_duration(result.seconds), train::human_count(result.tokens_per_second),
                   100 * result.flops_per_second / result.peak_flops, result.peak_flops / 1e12,
                   config.train.precision));
  note(fmt::format("the model: {}\nthe report: {}", result.checkpoint.string(),
                   (fs::path(flags.out) / "report.html").string()));
}

void run(Flags flags) {
  sort_positionals(flags);
  ConfigFile config = read_configuration(flags);
  if (flags.dump) {
    fmt::print("{}", to_text(config));
    return;
  }
  if (config.run.threads > 0) {
    set_threads(static_cast<int>(config.run.threads));
    at::set_num_threads(static_cast<int>(config.run.threads));
  }
  Session session{config, models::device_named(config.run.device)};
  if (flags.verify > 0) return prove_resume(flags, session);
  train::require_free_or_resumed(flags.out, flags.resume);
  if (config.run.minutes > 0) calibrate(config, session);
  auto task = session.task();
  auto model = session.model();
  train::RunSpec spec;
  spec.folder = flags.out;
  spec.title = fs::path(flags.out).lexically_normal().filename().string();
  spec.config_toml = to_text(config);
  spec.save_model = [&](const fs::path& folder, const train::Tensors&) {
    models::save_language_model(folder, *model, &task->tokenizer());
  };
  spec.sample = sampler(*model, task->tokenizer(), config.run);
  spec.resume = flags.resume;
  spec.from_step = flags.from;
  spec.progress.quiet = flags.quiet;
  report(flags, config, train::run(*model, *task, config.train, config.run, spec));
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
