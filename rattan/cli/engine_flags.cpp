#include "rattan/cli/engine_flags.h"

#include <fmt/core.h>

#include <fstream>

#include "rattan/cli/cuda_devices.h"
#include "rattan/cli/model_flags.h"
#include "rattan/serve/memory_size.h"

namespace rattan::cli {
namespace engine_flags_file {

int64_t memory_of(const at::Device device) {
  if (device.is_cuda()) {
    const CudaReport report = cuda_report();
    const auto index = static_cast<std::size_t>(device.has_index() ? device.index() : 0);
    return index < report.devices.size() ? report.devices[index].memory_bytes : 0;
  }
  std::ifstream in("/proc/meminfo");
  for (std::string word; in >> word;) {
    int64_t kilobytes = 0;
    if (word == "MemAvailable:" && in >> kilobytes) return kilobytes * 1024;
  }
  return 0;
}

}  // namespace engine_flags_file

void EngineFlags::declare(CLI::App& verb, const std::string& memory_default) {
  verb.add_option("--context", context, "tokens of prompt and answer together; 0: what the model was trained on")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  verb.add_option("--memory", memory,
                  "for states and cached prefixes: 8GiB, or 60% of the device's memory (of what is free, on a "
                  "processor); default: " +
                      memory_default);
  verb.add_option("--prefill", config.prefill_tokens,
                  "prompt tokens that one step reads at most; 0: 512 on a processor, 4096 on a GPU")
      ->capture_default_str();
  verb.add_option("--snapshot-every", config.snapshot_every,
                  "tokens between snapshots of states that cannot be resumed elsewhere")
      ->capture_default_str();
  verb.add_option("--lookup", config.lookup, "tokens a step guesses from the sequence's own past (exact); 0: none")
      ->capture_default_str();
  verb.add_flag("--strict", config.strict,
                "the same seed gives the same text whatever runs beside it and wherever its state came from, bit for "
                "bit; slower");
  verb.add_flag("--no-graph", no_graph, "on a GPU: launch every kernel of a step from the host");
}

void EngineFlags::settle(const models::LoadedModel& loaded, const std::string& device) {
  const int64_t trained = loaded.model->config().context;
  config.max_context = context > 0 ? context : trained;
  if (config.max_context > trained)
    warn(fmt::format("the model was trained on {} tokens; texts of up to {} may come out worse", trained,
                     config.max_context));
  config.graph = !no_graph;
  if (!memory.empty())
    config.memory = serve::memory_size(memory, engine_flags_file::memory_of(models::device_named(device)), "--memory");
}

}  // namespace rattan::cli
