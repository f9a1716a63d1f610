// The flags of every verb that runs the serving engine.
#pragma once
#include <string>

#include "rattan/cli/verb.h"
#include "rattan/infer/engine.h"
#include "rattan/models/load.h"

namespace rattan::cli {

struct EngineFlags {
  infer::EngineConfig config;
  std::string memory;
  int64_t context = 0;
  bool no_graph = false;

  // --context, --memory, --prefill, --snapshot-every, --lookup, --strict, --no-graph. `memory_default` ends the help
  // of --memory.
  void declare(CLI::App& verb, const std::string& memory_default);
  // Completes `config` with what the model and the device say; a warning where the context is longer than trained.
  void settle(const models::LoadedModel& loaded, const std::string& device);
};

}  // namespace rattan::cli
