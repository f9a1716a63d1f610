#include "rattan/cli/bench_flags.h"

namespace rattan::cli {

void declare_budget(CLI::App& verb, bench::Budget& budget) {
  verb.add_option("--seconds", budget.seconds, "measuring time for each figure, about")->capture_default_str();
  verb.add_option("--rounds", budget.min_rounds, "timed calls of each at least, unless --budget allows fewer")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb.add_option("--budget", budget.limit, "seconds of measuring no figure may exceed, down to one call; 0: none")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
}

}  // namespace rattan::cli
