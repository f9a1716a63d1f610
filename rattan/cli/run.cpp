#include "rattan/cli/run.h"

#include <c10/util/Exception.h>
#include <fmt/core.h>
#include <malloc.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "rattan/base/config.h"
#include "rattan/base/error.h"
#include "rattan/cli/verbs.h"

namespace rattan::cli {
namespace run_file {

// Training frees and allocates the same large blocks every step. Returning them to the kernel each time
// costs more in page faults than many of the kernels that use them.
void keep_freed_memory() {
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, -1);
  mallopt(M_TOP_PAD, 64 << 20);
}

int report(const std::string& what, int code) {
  fmt::print(stderr, "rattan: {}\n", what);
  return code;
}

// What was printed may still lie in a buffer, and the disk behind it may be full.
int finish() {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return 0;
  return report(fmt::format("cannot write standard output: {}", std::strerror(errno)), 1);
}

void require_known_verb(const std::string& word) {
  std::vector<std::string> known;
  for (const Verb& verb : verbs()) {
    if (word == verb.name) return;
    known.emplace_back(verb.name);
  }
  const std::string near = nearest(word, known);
  fail_input("there is no verb '{}'{}; `rattan --help` lists them", word,
             near.empty() ? "" : fmt::format(" (did you mean '{}'?)", near));
}

}  // namespace run_file

void print_json(const nlohmann::json& document) {
  fmt::print("{}\n", document.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
}

int run(int argc, char** argv) {
  using namespace run_file;
  keep_freed_memory();
  CLI::App app("Rattan trains, evaluates and serves sequence models woven from recurrence and attention.", "rattan");
  app.require_subcommand(1);
  app.set_version_flag("--version", RATTAN_VERSION);
  for (const Verb& verb : verbs()) verb.declare(*app.add_subcommand(verb.name, verb.summary));
  try {
    if (argc < 2) {
      fmt::print(stderr, "{}", app.help());
      return 2;
    }
    if (argv[1][0] != '-') require_known_verb(argv[1]);
    app.parse(argc, argv);
    return finish();
  } catch (const CLI::Success& help_or_version) {
    return app.exit(help_or_version);
  } catch (const CLI::ParseError& error) {
    app.exit(error);
    return 2;
  } catch (const Interrupted& error) {
    return report(error.what(), 130);
  } catch (const InputError& error) {
    return report(error.what(), 2);
  } catch (const c10::Error& error) {
    return report(error.what_without_backtrace(), 1);
  } catch (const std::exception& error) {
    return report(error.what(), 1);
  }
}

}  // namespace rattan::cli

// The name under which the program finds it in librattan.
extern "C" int rattan_run(int argc, char** argv) { return rattan::cli::run(argc, argv); }
