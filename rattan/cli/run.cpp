#include "rattan/cli/run.h"

#include <fmt/core.h>
#include <malloc.h>

#include <nlohmann/json.hpp>

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

int report(const char* what, int code) {
  fmt::print(stderr, "rattan: {}\n", what);
  return code;
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
    app.parse(argc, argv);
    return 0;
  } catch (const CLI::Success& help_or_version) {
    return app.exit(help_or_version);
  } catch (const CLI::ParseError& error) {
    app.exit(error);
    return 2;
  } catch (const Interrupted& error) {
    return report(error.what(), 130);
  } catch (const InputError& error) {
    return report(error.what(), 2);
  } catch (const std::exception& error) {
    return report(error.what(), 1);
  }
}

}  // namespace rattan::cli

// The name under which the program finds it in librattan.
extern "C" int rattan_run(int argc, char** argv) { return rattan::cli::run(argc, argv); }
