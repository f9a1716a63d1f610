// rattan demo: text, vocabulary, packed data, training, samples, report.
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>

#include "demo_recipe.h"
#include "rattan/base/config.h"
#include "rattan/base/error.h"
#include "rattan/base/files.h"
#include "rattan/cli/demo_text.h"
#include "rattan/cli/model_flags.h"
#include "rattan/cli/training_session.h"
#include "rattan/data/pack.h"
#include "rattan/data/tokenizer_training.h"
#include "rattan/io/checkpoint.h"
#include "rattan/train/metrics.h"
#include "rattan/train/samples.h"

namespace rattan::cli {
namespace demo_file {

namespace fs = std::filesystem;

// What calibration sees is the speed of some seconds. Shared processors were seen to lose a sixth of it later; this
// share of the time is kept for that.
constexpr double kReserve = 0.16;

struct Flags {
  std::string out = "runs/demo", text;
  std::vector<std::string> overrides;
  double minutes = 3;
  bool again = false, quiet = false, json = false;
};

bool there(const fs::path& path) {
  std::error_code none;
  return fs::exists(path, none);
}

// The files of a demo's folder; those of the run itself are listed in train/run.h.
struct Folder {
  fs::path root;
  fs::path config() const { return root / "config.toml"; }
  fs::path train() const { return root / "text/train.txt"; }
  fs::path valid() const { return root / "text/valid.txt"; }
  fs::path tokenizer() const { return root / "tokenizer.model"; }
  fs::path data() const { return root / "data"; }
  fs::path checkpoints() const { return train::checkpoints_of(root); }
  int64_t last_step() const {
    if (!there(checkpoints())) return 0;
    const auto latest = latest_checkpoint(checkpoints());
    return latest ? latest->step : 0;
  }
  void forget_run() const {
    std::error_code none;
    for (const char* name : {"checkpoints", "metrics.jsonl", "tb", "samples.txt", "report.html", "config.toml"})
      fs::remove_all(root / name, none);
  }
};

void make_folder(const fs::path& folder) {
  std::error_code problem;
  fs::create_directories(folder, problem);
  if (problem) fail("{}: cannot be made: {}", folder.string(), problem.message());
}

void make_text(const Flags& flags, const Folder& folder) {
  if (there(folder.train()) && there(folder.valid())) {
    if (!flags.text.empty()) {
      const DemoText text = own_text(flags.text);
      require(read_file(folder.train()) == text.train && read_file(folder.valid()) == text.valid,
              "{} holds a demo of another text than {}; choose another folder with --out", flags.out, flags.text);
    }
    return note(fmt::format("text: {} is there already", folder.train().parent_path().string()));
  }
  const DemoText text = flags.text.empty() ? king_james_text() : own_text(flags.text);
  make_folder(folder.train().parent_path());
  write_file(folder.train(), text.train);
  write_file(folder.valid(), text.valid);
  note(fmt::format("text: {}, {} bytes to learn from and {} held out ({})", text.name, text.train.size(),
                   text.valid.size(), text.held_out));
}

// The vocabulary is learned from the training part alone. Each part is one document: a continuous text.
void make_data(const Folder& folder, int64_t vocab_size) {
  if (there(folder.data() / "manifest.json"))
    return note(fmt::format("data: {} is there already", folder.data().string()));
  TokenizerTraining training;
  training.vocab_size = vocab_size;
  TokenizerTrainer trainer(training);
  trainer.add(read_file(folder.train()));
  write_file(folder.tokenizer(), trainer.train());
  note(fmt::format("vocabulary: {} pieces in {}", vocab_size, folder.tokenizer().string()));
  PackConfig pack;
  pack.inputs = {folder.train().string(), folder.valid().string()};
  pack.tokenizer = folder.tokenizer();
  pack.out = folder.data();
  pack.holdout.last = 1;
  const Manifest manifest = rattan::pack(pack).manifest;
  note(fmt::format("data: {} tokens to learn from and {} held out in {}", manifest.splits.at("train").tokens,
                   manifest.splits.at("valid").tokens, folder.data().string()));
}

ConfigFile fresh_config(const Flags& flags, const Folder& folder) {
  ConfigTree tree = ConfigTree::from_text(kDemoRecipe, "recipes/demo.toml");
  tree.override_with(flags.overrides);
  ConfigFile config;
  tree.read(config);
  config.model.context = config.data.seq_len;
  config.model.validate();
  StreamSource source;
  source.path = folder.data().string();
  config.data.sources = {source};
  config.run.minutes = flags.minutes * (1 - kReserve);
  return config;
}

// What the last evaluation said; null if there was none.
nlohmann::json last_bits_per_byte(const Folder& folder) {
  nlohmann::json bits;
  for (const auto& line : train::read_metrics(folder.root / "metrics.jsonl"))
    if (auto value = line.find("valid_bits_per_byte"); value != line.end()) bits = *value;
  return bits;
}

void report(const Flags& flags, const Folder& folder, nlohmann::json document, bool show_sample) {
  const nlohmann::json bits = last_bits_per_byte(folder);
  const auto samples = train::read_samples(folder.root / "samples.txt");
  const auto model = latest_checkpoint(folder.checkpoints());
  require(model.has_value(), "{}: no checkpoint is left; --again trains anew", flags.out);
  if (flags.json) {
    document["out"] = flags.out;
    document["bits_per_byte"] = bits;
    document["checkpoint"] = model->folder.string();
    document["report"] = (folder.root / "report.html").string();
    document["samples"] = nlohmann::json::array();
    for (const auto& sample : samples) document["samples"].push_back(sample.text);
    return print_json(document);
  }
  if (show_sample && !samples.empty()) note(samples.back().text);
  if (bits.is_number()) note(fmt::format("bits per byte of the held-out text: {:.4f}", bits.get<double>()));
  note(fmt::format("write more of it: rattan generate {} --prompt \"And\"", model->folder.string()));
}

train::RunResult train_or_continue(ConfigFile& config, const TrainingFlags& training) {
  try {
    return run_training(config, training);
  } catch (const Interrupted&) {
    throw Interrupted(fmt::format("stopped and saved in {}; the same command continues there", training.out));
  }
}

void run(const Flags& flags) {
  require(std::isfinite(flags.minutes) && flags.minutes >= 0, "--minutes must be 0 or more, got {}", flags.minutes);
  const Folder folder{flags.out};
  if (flags.again) {
    require(!there(folder.root) || there(folder.train()),
            "{} is not the folder of a demo; --again removes nothing there", flags.out);
    folder.forget_run();
  }
  const bool begun = there(folder.config());
  require(!begun || flags.overrides.empty(), "{} holds a demo with other settings; --again trains anew with these",
          flags.out);
  ConfigFile config = begun ? read_config_file(folder.config()) : fresh_config(flags, folder);
  const int64_t done = begun ? folder.last_step() : 0;
  if (begun && done >= config.train.steps) {
    note(fmt::format("{}: the demo was trained before ({} steps); --again trains anew", flags.out, done));
    return report(flags, folder, {{"status", "trained before"}, {"steps", done}}, true);
  }
  make_text(flags, folder);
  make_data(folder, config.model.vocab_size);
  if (begun) note(fmt::format("{}: continuing an interrupted demo", flags.out));
  TrainingFlags training;
  training.out = flags.out;
  training.quiet = flags.quiet;
  training.resume = begun;
  const train::RunResult result = train_or_continue(config, training);
  if (!flags.json) note(training_summary(config, training, result));
  nlohmann::json document = training_json(training, result);
  document["status"] = begun ? "continued" : "trained";
  report(flags, folder, document, false);
}

void declare(CLI::App& verb) {
  auto flags = std::make_shared<Flags>();
  verb.add_option("overrides", flags->overrides, "settings laid over the recipe: train.lr=1e-3")
      ->type_name("KEY=VALUE");
  verb.add_option("--out", flags->out, "the folder for all of it")->type_name("DIR")->capture_default_str();
  verb.add_option("--text", flags->text, "learn this text instead of the King James; its last 20th is held out")
      ->type_name("FILE");
  verb.add_option("--minutes", flags->minutes,
                  "the longest time to train; the number of steps is fixed by a calibration (0: as the recipe says)")
      ->capture_default_str();
  verb.add_flag("--again", flags->again, "forget the run that is in DIR and train anew");
  verb.add_flag("--quiet", flags->quiet, "no progress");
  verb.add_flag("--json", flags->json, "print one JSON document at the end");
  verb.footer("A demo that was interrupted is continued by the same command.");
  verb.callback([flags] { run(*flags); });
}

}  // namespace demo_file

extern const Verb demo_verb;
const Verb demo_verb = {"demo", "train a small hybrid on the King James text and see what it writes",
                        demo_file::declare};

}  // namespace rattan::cli
