// rattan init CONFIG --out DIR: a model folder with fresh weights.
#include <unistd.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "rattan/base/error.h"
#include "rattan/cli/config_file.h"
#include "rattan/cli/model_flags.h"

namespace rattan::cli {
namespace init_file {

namespace fs = std::filesystem;

struct Flags {
  std::string config, out, tokenizer = "bytes";
  std::vector<std::string> overrides;
  uint64_t seed = 0;
  bool json = false;
};

void require_free(const fs::path& out) {
  std::error_code none;
  require(!fs::exists(out, none) || (fs::is_directory(out, none) && fs::is_empty(out, none)),
          "{} is there already and not an empty folder; choose another --out, or remove it", out.string());
}

// Written beside and renamed, so that the folder is whole or absent.
void write_whole(const fs::path& out, models::LanguageModel& model, const Tokenizer& tokenizer) {
  fs::path whole = fs::absolute(out).lexically_normal();
  if (!whole.has_filename()) whole = whole.parent_path();  // a trailing slash
  const fs::path aside = whole.parent_path() / fmt::format(".{}.{}", whole.filename().string(), getpid());
  std::error_code code;
  try {
    models::save_language_model(aside, model, &tokenizer);
    fs::remove(whole, code);  // an empty folder of that name
    fs::rename(aside, whole);
  } catch (const fs::filesystem_error& error) {
    fs::remove_all(aside, code);
    fail("cannot write {}: {}", whole.string(), error.code().message());
  } catch (...) {
    fs::remove_all(aside, code);
    throw;
  }
}

void run(const Flags& flags) {
  require_free(flags.out);
  ConfigFile config = read_config_file(flags.config, flags.overrides);
  const auto tokenizer = load_tokenizer(flags.tokenizer);
  const int64_t size = config.model.vocab_size;
  require(tokenizer->vocab_size() <= size,
          "{}: model.vocab_size is {}, but the tokenizer {} has {} tokens; set model.vocab_size={}", flags.config, size,
          flags.tokenizer, tokenizer->vocab_size(), tokenizer->vocab_size());
  if (tokenizer->vocab_size() < size)
    warn(fmt::format("the model has {} token ids, the tokenizer '{}' uses {} of them", size, flags.tokenizer,
                     tokenizer->vocab_size()));
  models::LanguageModel model(config.model);
  model.initialize(flags.seed);
  write_whole(flags.out, model, *tokenizer);
  const int64_t parameters = model.parameters();
  if (flags.json)
    return print_json({{"path", flags.out},
                       {"parameters", parameters},
                       {"vocab_size", size},
                       {"tokenizer", tokenizer->fingerprint()},
                       {"seed", flags.seed}});
  note(fmt::format("{}: {} parameters, drawn from seed {}", flags.out, parameters, flags.seed));
}

void declare(CLI::App& verb) {
  auto flags = std::make_shared<Flags>();
  verb.add_option("config", flags->config, "a TOML file with [model] and [mixers.<name>]; other tables are checked too")
      ->required()
      ->type_name("CONFIG");
  verb.add_option("overrides", flags->overrides, "settings laid over the file: model.n_layers=4")
      ->type_name("KEY=VALUE");
  verb.add_option("--out", flags->out, "the model folder to make")->required()->type_name("DIR");
  verb.add_option("--seed", flags->seed, "decides the weights")->capture_default_str();
  verb.add_option("--tokenizer", flags->tokenizer, "a .model file, a folder with a tokenizer, or the word bytes")
      ->capture_default_str();
  verb.add_flag("--json", flags->json, "print one JSON document");
  verb.callback([flags] { run(*flags); });
}

}  // namespace init_file

extern const Verb init_verb;
const Verb init_verb = {"init", "make a model with fresh weights from a configuration", init_file::declare};

}  // namespace rattan::cli
