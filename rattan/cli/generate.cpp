// rattan generate MODEL [--prompt TEXT | --prompt-file FILE | -]
#include <unistd.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "rattan/base/error.h"
#include "rattan/cli/model_flags.h"
#include "rattan/cli/sampling_flags.h"
#include "rattan/infer/generator.h"

namespace rattan::cli {
namespace generate_file {

struct Flags {
  ModelFlags model;
  TextSource prompt;
  SamplingFlags sampling;
  int64_t samples = 1, prefill_chunk = 512;
  bool ignore_end = false, strict = false, no_graph = false, echo = false, json = false;
};

std::vector<std::string> prompts(const Flags& flags) {
  const TextSource& source = flags.prompt;
  if (source.file.empty() && source.input.empty())
    return source.texts.empty() ? std::vector<std::string>{""} : source.texts;
  return {source.one("the prompt (--prompt, --prompt-file or -)")};
}

std::vector<infer::Request> requests(const Flags& flags, const std::vector<std::string>& texts,
                                     const Tokenizer& tokenizer) {
  std::vector<infer::Request> out;
  for (const std::string& text : texts) {
    infer::Request request;
    request.prompt = tokenizer.encode(text);
    request.max_tokens = flags.sampling.max_tokens;
    request.sampling = flags.sampling.config();
    request.stop = flags.sampling.stops();
    request.end_token = flags.ignore_end ? -1 : tokenizer.eos();
    request.seed = flags.sampling.seed;
    for (int64_t sample = 0; sample < flags.samples; ++sample) {
      request.sample = static_cast<uint64_t>(sample);
      out.push_back(request);
    }
  }
  return out;
}

double rate(int64_t tokens, double seconds) { return seconds > 0 ? static_cast<double>(tokens) / seconds : 0; }

nlohmann::json report(const Flags& flags, const models::LoadedModel& loaded, const std::vector<std::string>& texts,
                      const std::vector<infer::Request>& asked, const std::vector<infer::Generation>& made,
                      const infer::Timing& timing) {
  nlohmann::json samples = nlohmann::json::array();
  for (std::size_t i = 0; i < made.size(); ++i) {
    const std::size_t prompt = i / static_cast<std::size_t>(flags.samples);
    samples.push_back({{"prompt", texts[prompt]},
                       {"prompt_tokens", asked[i].prompt},
                       {"sample", asked[i].sample},
                       {"text", made[i].text},
                       {"tokens", made[i].ids},
                       {"logprobs", made[i].logprobs},
                       {"finish", infer::name_of(made[i].finish)}});
  }
  return {{"model", loaded.folder.string()},
          {"device", flags.model.device},
          {"dtype", loaded.precision},
          {"seed", flags.sampling.seed},
          {"strict", flags.strict},
          {"samples", std::move(samples)},
          {"timing",
           {{"prefill_tokens", timing.prefill_tokens},
            {"prefill_seconds", timing.prefill_seconds},
            {"prefill_tokens_per_second", rate(timing.prefill_tokens, timing.prefill_seconds)},
            {"decode_tokens", timing.decode_tokens},
            {"decode_seconds", timing.decode_seconds},
            {"decode_tokens_per_second", rate(timing.decode_tokens, timing.decode_seconds)}}}};
}

void print(const std::string& text) {
  fmt::print("{}", text);
  std::fflush(stdout);
}

// One text as it comes; several when all are there, each behind a line that says which it is.
void print_all(const Flags& flags, const std::vector<std::string>& texts, const std::vector<infer::Generation>& made) {
  for (std::size_t i = 0; i < made.size(); ++i) {
    const auto samples = static_cast<std::size_t>(flags.samples);
    const std::string of = texts.size() > 1 ? fmt::format("prompt {}, ", i / samples + 1) : "";
    print(fmt::format("=== {}sample {} ===\n{}{}\n", of, i % samples + 1, flags.echo ? texts[i / samples] : "",
                      made[i].text));
  }
}

void run(const Flags& flags) {
  require(flags.samples >= 1, "--n must be at least 1, got {}", flags.samples);
  require(!flags.sampling.greedy || flags.samples == 1, "--greedy makes every sample the same text; leave out --n");
  flags.sampling.config();
  const std::vector<std::string> texts = prompts(flags);
  const models::LoadedModel loaded = flags.model.load();
  const Tokenizer& tokenizer = tokenizer_of(loaded);
  const std::vector<infer::Request> asked = requests(flags, texts, tokenizer);

  infer::GeneratorConfig config;
  config.prefill_chunk = flags.prefill_chunk;
  config.strict = flags.strict;
  config.graph = !flags.no_graph;
  config.trained_context = loaded.model->config().context;
  config.warn = warn;
  infer::Generator generator(*loaded.model, tokenizer, config);

  const bool stream = !flags.json && asked.size() == 1;
  if (stream && flags.echo) print(texts.front());
  const auto made = generator.run(asked, [&](const infer::TokenEvent& event) {
    if (stream) print(event.text);
  });
  const infer::Timing& timing = generator.timing();
  if (flags.json) return print_json(report(flags, loaded, texts, asked, made, timing));
  stream ? print("\n") : print_all(flags, texts, made);
  note(fmt::format("prefill: {} tokens, {:.0f} tokens/s; decode: {} tokens, {:.0f} tokens/s", timing.prefill_tokens,
                   rate(timing.prefill_tokens, timing.prefill_seconds), timing.decode_tokens,
                   rate(timing.decode_tokens, timing.decode_seconds)));
}

void declare(CLI::App& verb) {
  auto flags = std::make_shared<Flags>();
  flags->model.declare(verb);
  verb.add_option("input", flags->prompt.input, "- reads the prompt from standard input")->type_name("[-]");
  verb.add_option("--prompt", flags->prompt.texts, "the text to continue; may be given several times")
      ->take_all()
      ->allow_extra_args(false);
  verb.add_option("--prompt-file", flags->prompt.file, "a file that holds the text to continue");
  verb.add_option("--n", flags->samples, "samples for each prompt, made together")->capture_default_str();
  flags->sampling.declare(verb);
  verb.add_flag("--ignore-end", flags->ignore_end, "go on after an end-of-document token");
  verb.add_flag("--no-graph", flags->no_graph, "on a GPU: launch every kernel of a step from the host");
  verb.add_flag("--strict", flags->strict,
                "the same seed gives the same text whatever runs beside it: one sequence at a time, slower with --n");
  verb.add_option("--prefill-chunk", flags->prefill_chunk, "tokens of a prompt that are read in one piece")
      ->capture_default_str();
  verb.add_flag("--echo", flags->echo, "print the prompt before the text");
  verb.add_flag("--json", flags->json, "print one JSON document: texts, token ids, log-probabilities, timing");
  verb.footer(
      "Without a prompt the text starts as a new document (behind the end-of-document token).\n"
      "Example: rattan generate runs/kjv --prompt \"In the beginning\" --temperature 0.8 --top-p 0.95 --n 3");
  verb.callback([flags] { run(*flags); });
}

}  // namespace generate_file

extern const Verb generate_verb;
const Verb generate_verb = {"generate", "continue a text with a model", generate_file::declare};

}  // namespace rattan::cli
