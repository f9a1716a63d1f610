// The flags of every verb that continues texts at the command line.
#pragma once
#include <string>
#include <vector>

#include "rattan/cli/verb.h"
#include "rattan/infer/sampler.h"

namespace rattan::cli {

struct SamplingFlags {
  infer::SamplerConfig sampling;
  uint64_t seed = 0;
  int64_t max_tokens = 256;
  std::vector<std::string> stop;
  bool greedy = false;

  // --max-tokens, --greedy, --temperature, --top-k, --top-p, --min-p, --repetition-penalty, --seed, --stop
  void declare(CLI::App& verb);
  // InputError for values out of range.
  infer::SamplerConfig config() const;
  // Whether the command line names any of those that decide what is sampled.
  static bool given(const CLI::App& verb);
  // With \n, \t and \\ understood, which a shell makes hard to write.
  std::vector<std::string> stops() const;
};

}  // namespace rattan::cli
