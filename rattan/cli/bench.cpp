// rattan bench WHAT: one file bench_<name>.cpp and one line here make a benchmark.
#include "rattan/cli/verb.h"

namespace rattan::cli {

#define RATTAN_BENCHMARKS(X) X(layer) X(model) X(serve)

#define X(name) extern const Verb bench_##name##_verb;
RATTAN_BENCHMARKS(X)
#undef X

namespace bench_file {

void declare(CLI::App& verb) {
  verb.require_subcommand(1);
  for (const Verb& benchmark : {
#define X(name) bench_##name##_verb,
           RATTAN_BENCHMARKS(X)
#undef X
       })
    benchmark.declare(*verb.add_subcommand(benchmark.name, benchmark.summary));
}

}  // namespace bench_file

extern const Verb bench_verb;
const Verb bench_verb = {"bench", "measure speed against this machine's own ceilings", bench_file::declare};

}  // namespace rattan::cli
