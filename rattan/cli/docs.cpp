// rattan docs configuration: the reference that is kept as docs/configuration.md. Hidden; a test compares the two.
#include "rattan/base/config.h"
#include "rattan/cli/config_file.h"
#include "rattan/cli/verb.h"
#include "rattan/eval/study/study_file.h"

namespace rattan::cli {
namespace docs_file {

constexpr const char* introduction = R"(# Configuration

This page is printed by `rattan docs configuration` from the tables that read the files, so it says what the program
does. Edit those (`fields` of each structure), not this page.

A configuration is a TOML file. Any key can be set on the command line as well: `rattan train recipe.toml
train.lr=3e-4 data.sources.0.path=data/kjv`. Unknown keys are errors. `rattan train CONFIG --dump-config` prints the
configuration with every key written out.

`rattan init` and `rattan inspect` use `[model]` and `[mixers.<name>]`, and accept and check the other tables;
`config.json` in a model folder holds `[model]` and `[mixers.<name>]` as JSON.

)";

constexpr const char* studies = R"(
# Studies

What `rattan study` reads ([study.md](study.md)): the tables above, and these.

)";

// Every type of mixer with its own keys.
std::string mixers() {
  std::string out =
      "## `[mixers.<name>]`\n\nA mixer that `model.pattern` can name. `type` chooses one of these; the other keys "
      "depend on "
      "it.\n\n| type | meaning |\n| --- | --- |\n";
  for (const nn::MixerType& type : nn::mixer_types()) out += fmt::format("| `{}` | {} |\n", type.name, type.summary);
  for (const nn::MixerType& type : nn::mixer_types()) {
    const auto options = type.options();
    out += fmt::format("\n### `type = \"{}\"`\n\n{}", type.name, to_markdown([&](Fields& f) { options->fields(f); }));
  }
  return out;
}

std::string configuration() {
  ConfigFile config;
  // The mixers' tables depend on their type and have a section of their own.
  auto model = to_markdown([&](Fields& f) { config.model.fields(f); });
  model = model.substr(0, model.find("\n## `[mixers."));
  const auto rest = to_markdown([&](Fields& f) { config.other_fields(f); });
  study::StudyFile study;
  const auto of_studies = to_markdown([&](Fields& f) {
    study.study_fields(f);
    f.table("recall", study.base.recall, "data of the task recall, made up; instead of [data]");
  });
  return introduction + model + "\n" + mixers() + "\n" + rest + studies + of_studies;
}

void declare(CLI::App& verb) {
  verb.group("");  // hidden
  verb.require_subcommand(1);
  verb.add_subcommand("configuration", "print docs/configuration.md")->callback([] {
    fmt::print("{}", configuration());
  });
}

}  // namespace docs_file

extern const Verb docs_verb;
const Verb docs_verb = {"docs", "print generated documentation", docs_file::declare};

}  // namespace rattan::cli
