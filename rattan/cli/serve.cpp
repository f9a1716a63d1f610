// rattan serve MODEL: the HTTP server.
#include <fmt/core.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <thread>

#include "rattan/base/error.h"
#include "rattan/cli/engine_flags.h"
#include "rattan/cli/model_flags.h"
#include "rattan/serve/api.h"
#include "rattan/serve/engine_backend.h"
#include "rattan/serve/memory_size.h"

namespace rattan::cli {
namespace serve_file {

struct Flags {
  ModelFlags model;
  serve::HttpConfig http;
  serve::ApiConfig api;
  EngineFlags engine;
  std::string name, keys, state_folder, max_body = "8MiB";
  double drain_seconds = 30, stream_ms = 20;
  int tasks = 2;
  bool no_cache = false, quiet = false;
};

// runs/kjv/checkpoints/step-100 is known as kjv, a folder models/small as small.
std::string name_of(const std::filesystem::path& given) {
  const std::filesystem::path path = std::filesystem::weakly_canonical(given);
  std::string name = path.filename().string();
  if (!name.starts_with("step-") || path.parent_path().filename() != "checkpoints") return name;
  return path.parent_path().parent_path().filename().string();
}

void prepare(Flags& flags) {
  if (!flags.keys.empty()) flags.api.keys = serve::ApiKeys::of_file(flags.keys);
  flags.api.model = flags.name.empty() ? name_of(flags.model.model) : flags.name;
  if (!flags.state_folder.empty()) {
    require(std::filesystem::is_directory(flags.state_folder), "--state-folder {} is not a folder; make it first",
            flags.state_folder);
    flags.api.state_folder = flags.state_folder;
  }
  flags.api.stream_seconds = flags.stream_ms / 1e3;
  flags.http.max_body = serve::memory_size(flags.max_body, 0, "--max-body");
  flags.engine.config.prefix_cache = !flags.no_cache;
}

// What is served, in the order of its making.
struct Served {
  models::LoadedModel loaded;
  std::unique_ptr<serve::EngineBackend> backend;
};

Served load(Flags& flags) {
  Served served{flags.model.load(), nullptr};
  const Tokenizer& tokenizer = tokenizer_of(served.loaded);
  flags.engine.settle(served.loaded, flags.model.device);
  served.backend = std::make_unique<serve::EngineBackend>(*served.loaded.model, tokenizer, flags.engine.config);
  return served;
}

serve::ServedModel routes_of(const Served& served) {
  serve::ServedModel model;
  model.backend = served.backend.get();
  model.tokenizer = served.loaded.tokenizer.get();
  model.chat = serve::ChatTemplate::of_folder(served.loaded.folder);
  model.limits.vocab_size = served.loaded.model->config().vocab_size;
  model.limits.max_context = served.backend->engine().config().max_context;
  return model;
}

void warn_of_strangers(const Flags& flags, const serve::HttpServer& server) {
  if (!server.loopback())
    warn(fmt::format("the server can be reached from other machines, without encryption{}",
                     flags.api.keys.required() ? "; put a proxy with TLS in front of it (docs/serving.md)"
                                               : " and by everybody: give --keys, and put a proxy with TLS in front of "
                                                 "it (docs/serving.md)"));
  if (flags.api.log_prompts) warn("the log will hold the text of all requests");
}

void run(Flags& flags) {
  prepare(flags);
  serve::Log log(stderr, flags.quiet);
  serve::TaskPool pool(flags.tasks, true);
  flags.engine.config.after_step = [&pool] { pool.flush(); };
  serve::Api api(flags.api, pool, log);
  flags.http.gate = [&api](const serve::HttpRequest& request) { return api.gate(request); };
  flags.http.refusal = [&api](int status, const std::string& message) { return api.refusal(status, message); };
  flags.http.record = [&api](const serve::HttpRecord& record) { api.record(record); };
  serve::HttpServer server(flags.http, [&api](serve::HttpRequest request, std::shared_ptr<serve::Reply> reply) {
    api.handle(std::move(request), std::move(reply));
  });
  api.connections([&server] { return server.connections(); });
  warn_of_strangers(flags, server);
  server.catch_signals();
  // While the model is loaded, /health can be asked already.
  std::thread io([&server] { server.run(); });
  const std::string address = fmt::format(
      "http://{}:{}", flags.http.host.find(':') == std::string::npos ? flags.http.host : "[" + flags.http.host + "]",
      server.port());
  try {
    const auto began = std::chrono::steady_clock::now();
    Served served = load(flags);
    api.ready(routes_of(served));
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - began;
    log.write("info", "ready",
              {{"address", address},
               {"model", flags.api.model},
               {"context", flags.engine.config.max_context},
               {"sequences", flags.engine.config.max_sequences},
               {"load_seconds", std::round(seconds.count() * 1e3) / 1e3}});
    server.wait_for_signal();
    log.write("info", "stopping", {{"connections", server.connections()}});
    api.drain();
    server.drain();
    served.backend->engine().drain(flags.drain_seconds);
    // Answers that are complete still have to reach their readers.
    pool.after(flags.http.write_seconds, [&server] { server.stop(); });
    io.join();
    pool.stop();
    log.write("info", "stopped", {{"requests", served.backend->stats().requests}});
  } catch (...) {
    server.stop();
    if (io.joinable()) io.join();
    pool.stop();
    throw;
  }
}

void declare_engine(CLI::App& verb, Flags& f) {
  f.engine.declare(verb, "what --sequences take, and as much again");
  verb.add_option("--sequences", f.engine.config.max_sequences, "sequences that run at the same time")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb.add_option("--queue", f.engine.config.max_waiting, "requests that may wait; more are sent away (429)")
      ->capture_default_str();
  verb.add_flag("--no-prefix-cache", f.no_cache, "read every prompt from its start");
}

void declare_http(CLI::App& verb, Flags& f) {
  verb.add_option("--host", f.http.host, "address to listen at; 0.0.0.0: reachable from other machines")
      ->capture_default_str();
  verb.add_option("--port", f.http.port, "0: any free one; the log's line \"ready\" names it")->capture_default_str();
  verb.add_option("--name", f.name, "the model's name for clients; default: that of its folder");
  verb.add_option("--keys", f.keys, "file with API keys, one a line; clients send one (Authorization: Bearer KEY)");
  verb.add_option("--cors", f.api.cors_origin, "origin whose pages may call, such as https://chat.example, or *");
  verb.add_option("--state-folder", f.state_folder, "where /state/save and /state/restore keep conversations");
  verb.add_option("--max-body", f.max_body, "largest body of a request")->capture_default_str();
  verb.add_option("--max-connections", f.http.max_connections, "idle ones give way to new ones")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb.add_option("--idle-seconds", f.http.idle_seconds, "a connection may wait so long between requests")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb.add_option("--read-seconds", f.http.body_seconds, "a body may take so long to arrive")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb.add_option("--write-seconds", f.http.write_seconds, "a reader that takes nothing for so long is cut off")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb.add_option("--request-seconds", f.api.request_seconds, "an answer may take so long")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb.add_option("--remember", f.api.remembered_tokens,
                  "tokens of past conversations that are known by their text, so that their next turns reuse them")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  verb.add_option("--stream-ms", f.stream_ms,
                  "tokens of a stream that follow one another faster are sent together, the first one at once; 0: each "
                  "by itself")
      ->check(CLI::Range(0.0, 1000.0))
      ->capture_default_str();
  verb.add_option("--drain-seconds", f.drain_seconds, "after SIGTERM, answers under way may take so long")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  verb.add_option("--tasks", f.tasks, "threads that parse requests and build answers")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  verb.add_flag("--log-prompts", f.api.log_prompts, "write the bodies of requests into the log");
  verb.add_flag("--quiet", f.quiet, "log warnings and errors alone");
}

void declare(CLI::App& verb) {
  auto flags = std::make_shared<Flags>();
  flags->model.declare(verb);
  declare_http(verb, *flags);
  declare_engine(verb, *flags);
  verb.footer(
      "The routes are OpenAI's: /v1/completions, /v1/chat/completions, /v1/models; also /tokenize, /detokenize,\n"
      "/health, /metrics, /state/save, /state/restore, /openapi.json, and a chat page at /. The log goes to stderr, "
      "one\n"
      "JSON object a line. SIGTERM or Ctrl-C finishes what is under way and ends; docs/serving.md shows more.\n"
      "Example: rattan serve runs/kjv --port 8000");
  verb.callback([flags] { run(*flags); });
}

}  // namespace serve_file

extern const Verb serve_verb;
const Verb serve_verb = {"serve", "answer requests over HTTP, as OpenAI's API does; with a chat page",
                         serve_file::declare};

}  // namespace rattan::cli
