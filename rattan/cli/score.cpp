// rattan score MODEL --text TEXT | --text-file FILE | --tokens 1,2,3 | -
#include "rattan/infer/score.h"

#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <numbers>
#include <numeric>

#include "rattan/base/error.h"
#include "rattan/cli/model_flags.h"
#include "rattan/infer/utf8.h"

namespace rattan::cli {
namespace score_file {

struct Flags {
  ModelFlags model;
  TextSource text;
  std::string tokens;
  bool by_tokens = false, json = false;
};

nlohmann::json number(double value, bool there) { return there ? nlohmann::json(value) : nlohmann::json(nullptr); }

void run(const Flags& flags) {
  const bool has_text = !flags.text.texts.empty() || !flags.text.file.empty() || !flags.text.input.empty();
  require(flags.by_tokens != has_text, "give either a text (--text, --text-file or -) or --tokens");
  std::vector<int32_t> ids;
  if (flags.by_tokens) ids = parse_ids(flags.tokens);
  const std::string text = has_text ? flags.text.one("the text (--text, --text-file or -)") : "";
  const models::LoadedModel loaded = flags.model.load();
  if (has_text) ids = tokenizer_of(loaded).encode(text);
  infer::check_ids(ids, loaded.model->config().vocab_size);

  infer::ScoreConfig config;
  config.trained_context = loaded.model->config().context;
  config.warn = warn;
  const std::vector<double> logprobs = infer::score(*loaded.model, ids, config);
  const double total = std::accumulate(logprobs.begin(), logprobs.end(), 0.0);
  const auto predicted = static_cast<double>(logprobs.size());
  // Bits count the bytes that were predicted: all but those of the first token.
  const double bytes =
      has_text && !ids.empty() ? static_cast<double>(text.size() - loaded.tokenizer->decode_piece(ids[0]).size()) : 0;
  const double bits_per_byte = -total / std::numbers::ln2 / bytes;
  const double perplexity = std::exp(-total / predicted);

  if (flags.json) {
    nlohmann::json each = nlohmann::json::array();
    if (!ids.empty()) each.push_back(nullptr);
    for (double x : logprobs) each.push_back(x);
    nlohmann::json out = {{"model", loaded.folder.string()},
                          {"dtype", loaded.precision},
                          {"tokens", ids},
                          {"logprobs", std::move(each)},
                          {"total", total},
                          {"perplexity", number(perplexity, predicted > 0)}};
    if (has_text) out["bits_per_byte"] = number(bits_per_byte, bytes > 0 && predicted > 0);
    return print_json(out);
  }
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const std::string value = i == 0 ? "-" : fmt::format("{:.4f}", logprobs[i - 1]);
    std::string name;
    if (loaded.tokenizer && ids[i] < loaded.tokenizer->vocab_size())
      name = infer::valid_utf8(loaded.tokenizer->piece_name(ids[i]));
    fmt::print("{:>10}  {:>7}  {}\n", value, ids[i], name);
  }
  if (predicted == 0) return note("nothing was predicted: the first token has nothing before it");
  note(fmt::format("{} tokens predicted, log-probability {:.4f}, perplexity {:.4f}{}", logprobs.size(), total,
                   perplexity, bytes > 0 ? fmt::format(", {:.4f} bits per byte", bits_per_byte) : ""));
}

void declare(CLI::App& verb) {
  auto flags = std::make_shared<Flags>();
  flags->model.declare(verb);
  verb.add_option("input", flags->text.input, "- reads the text from standard input")->type_name("[-]");
  verb.add_option("--text", flags->text.texts, "the text to score")->take_all()->allow_extra_args(false);
  verb.add_option("--text-file", flags->text.file, "a file that holds the text");
  auto* tokens = verb.add_option("--tokens", flags->tokens, "token ids to score: 1,2,3");
  verb.add_flag("--json", flags->json, "print one JSON document: `logprobs` has one value a token, null for the first");
  verb.callback([flags, tokens] {
    flags->by_tokens = tokens->count() > 0;
    run(*flags);
  });
}

}  // namespace score_file

extern const Verb score_verb;
const Verb score_verb = {"score", "log-probability of each token of a text", score_file::declare};

}  // namespace rattan::cli
