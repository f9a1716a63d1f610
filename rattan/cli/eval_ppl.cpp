// rattan eval ppl MODEL --text FILE --context N --stride M
#include <unistd.h>

#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>

#include "rattan/base/error.h"
#include "rattan/base/files.h"
#include "rattan/cli/model_flags.h"
#include "rattan/infer/perplexity.h"
#include "rattan/infer/score.h"

namespace rattan::cli {
namespace eval_ppl_file {

struct Flags {
  ModelFlags model;
  std::string text;
  infer::PerplexityConfig windows;
  bool json = false;
};

// A line on a terminal that is written over; nothing elsewhere.
std::function<void(int64_t, int64_t)> progress_line(bool wanted) {
  if (!wanted || !isatty(STDERR_FILENO)) return {};
  return [start = std::chrono::steady_clock::now()](int64_t done, int64_t all) {
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    const double rate = static_cast<double>(done) / std::max(seconds, 1e-9);
    fmt::print(stderr, "\r{}/{} tokens, {:.0f} tokens/s, {:.0f} s left   {}", done, all, rate,
               static_cast<double>(all - done) / rate, done == all ? "\n" : "");
  };
}

void run(Flags& flags) {
  const std::string text = read_file(flags.text);
  require(!text.empty(), "{} is empty; there is nothing to measure", flags.text);
  const models::LoadedModel loaded = flags.model.load();
  const Tokenizer& tokenizer = tokenizer_of(loaded);
  const int64_t trained = loaded.model->config().context;
  if (flags.windows.context == 0) flags.windows.context = trained;
  if (flags.windows.stride == 0) flags.windows.stride = flags.windows.context;
  const std::vector<int32_t> ids = tokenizer.encode(text);
  infer::check_ids(ids, loaded.model->config().vocab_size);
  if (flags.windows.context > trained && static_cast<int64_t>(ids.size()) > trained + 1)
    warn(fmt::format("a context of {} tokens is longer than the {} that this model was trained on",
                     flags.windows.context, trained));

  const infer::Perplexity result = infer::perplexity(*loaded.model, ids, flags.windows, progress_line(!flags.json));
  const auto bytes = static_cast<double>(text.size() - tokenizer.decode_piece(ids[0]).size());
  if (flags.json) {
    nlohmann::json positions = nlohmann::json::array();
    for (const infer::PositionLoss& p : result.by_position)
      positions.push_back({{"from", p.from}, {"to", p.to}, {"tokens", p.tokens}, {"loss", p.loss}});
    return print_json({{"model", loaded.folder.string()},
                       {"dtype", loaded.precision},
                       {"cache", flags.model.cache},
                       {"text", flags.text},
                       {"bytes", text.size()},
                       {"tokens", ids.size()},
                       {"predicted_tokens", result.tokens},
                       {"context", flags.windows.context},
                       {"stride", flags.windows.stride},
                       {"loss", result.loss()},
                       {"perplexity", result.perplexity()},
                       {"bits_per_byte", result.bits_per_byte(bytes)},
                       {"loss_by_position", std::move(positions)}});
  }
  fmt::print(
      "perplexity     {:.4f}\nloss           {:.4f} nats a token\nbits per byte  {:.4f}\ntokens         {} ({:.2f} "
      "bytes each)\n\ntokens before   predicted   loss\n",
      result.perplexity(), result.loss(), result.bits_per_byte(bytes), result.tokens,
      bytes / static_cast<double>(result.tokens));
  for (const infer::PositionLoss& p : result.by_position) {
    const std::string range = p.from == p.to ? fmt::format("{}", p.from) : fmt::format("{}-{}", p.from, p.to);
    fmt::print("{:<15} {:>9}   {:.4f}\n", range, p.tokens, p.loss);
  }
}

void declare(CLI::App& verb) {
  auto flags = std::make_shared<Flags>();
  flags->model.declare(verb);
  verb.add_option("--text", flags->text, "the file to read, as one text")->required()->type_name("FILE");
  verb.add_option("--context", flags->windows.context, "tokens of a window; 0: what the model was trained for")
      ->capture_default_str();
  verb.add_option("--stride", flags->windows.stride,
                  "tokens from one window's start to the next; 0: the context, so that windows do not overlap")
      ->capture_default_str();
  verb.add_option("--batch-tokens", flags->windows.batch_tokens, "windows are read together up to this many tokens")
      ->capture_default_str();
  verb.add_flag("--json", flags->json, "print one JSON document");
  verb.footer(
      "Every token but the first is predicted once. Bits per byte count the bytes of the file, so they do not depend "
      "on\n"
      "the vocabulary. The table shows the loss by how many tokens of the window stood before.");
  verb.callback([flags] { run(*flags); });
}

}  // namespace eval_ppl_file

extern const Verb eval_ppl_verb;
const Verb eval_ppl_verb = {"ppl", "perplexity, bits per byte and loss by position on a text", eval_ppl_file::declare};

}  // namespace rattan::cli
