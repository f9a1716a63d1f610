// rattan bench serve URL: a load for a running server.
#include <fmt/core.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "rattan/base/error.h"
#include "rattan/cli/verb.h"
#include "rattan/serve/load.h"

namespace rattan::cli {
namespace bench_serve_file {

struct Flags {
  serve::LoadConfig load;
  bool json = false;
};

void run(const Flags& flags) {
  const serve::LoadReport report = serve::run_load(flags.load);
  if (flags.json) {
    print_json(serve::to_json(flags.load, report));
  } else {
    fmt::print("{}", serve::to_table(report));
  }
  if (!report.failures.empty()) fail("some requests failed");
}

void declare(CLI::App& verb) {
  auto flags = std::make_shared<Flags>();
  serve::LoadConfig& c = flags->load;
  verb.add_option("url", c.url, "where the server is")->capture_default_str()->type_name("URL");
  verb.add_option("--key", c.key, "an API key of the server");
  verb.add_option("--conversations", c.conversations, "how many there are in all")->capture_default_str();
  verb.add_option("--turns", c.turns, "of each conversation; each sends all that was said before")
      ->capture_default_str();
  verb.add_option("--rate", c.rate, "new conversations a second, at random (Poisson); 0: --concurrency at all times")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  verb.add_option("--concurrency", c.concurrency, "conversations at the same time, at most")->capture_default_str();
  verb.add_option("--shared", c.shared_tokens, "tokens that all prompts start with")->capture_default_str();
  verb.add_option("--prompt", c.prompt_tokens, "further tokens of the first turn")->capture_default_str();
  verb.add_option("--turn", c.turn_tokens, "new tokens of each later turn")->capture_default_str();
  verb.add_option("--answer", c.answer_tokens, "tokens of an answer")->capture_default_str();
  verb.add_option("--temperature", c.temperature, "0: the server takes the most probable token, on its device")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  verb.add_flag("!--whole", c.stream, "take answers whole instead of as streams");
  verb.add_option("--think", c.think_seconds, "seconds between an answer and the next turn")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  verb.add_option("--leave", c.leave, "share of requests whose client leaves in the middle of the answer")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  verb.add_option("--timeout", c.timeout_seconds, "seconds without a byte after which a request has failed")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb.add_option("--seed", c.seed, "decides tokens and arrivals")->capture_default_str();
  verb.add_flag("--json", flags->json, "print one JSON document");
  verb.footer(
      "Prompts are random token ids, so that the engine is measured and not the tokenizer. Times count from when a\n"
      "request was due. Exit code 1 if a request failed.\n"
      "Example: rattan bench serve http://127.0.0.1:8000 --conversations 200 --rate 5 --turns 3 --shared 512");
  verb.callback([flags] { run(*flags); });
}

}  // namespace bench_serve_file

extern const Verb bench_serve_verb;
const Verb bench_serve_verb = {"serve", "a load for a running server: throughput and latencies",
                               bench_serve_file::declare};

}  // namespace rattan::cli
