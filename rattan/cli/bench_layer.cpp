// rattan bench layer: one mixing layer of each mixer, in training, prefill and decoding.
#include <memory>
#include <nlohmann/json.hpp>

#include "rattan/base/error.h"
#include "rattan/base/files.h"
#include "rattan/bench/layer.h"
#include "rattan/cli/bench_flags.h"
#include "rattan/cli/model_flags.h"

namespace rattan::cli {
namespace bench_layer_file {

struct Flags {
  bench::LayerBench bench;
  std::string device = "cpu", dtype = "fp32", plot;
  int threads = 0;
  std::string cache = "full";
  bool json = false, fp8 = false;
};

void run(Flags& flags) {
  flags.bench.device = models::device_named(flags.device);
  flags.bench.dtype = models::dtype_named(flags.dtype).value_or(at::kFloat);
  if (flags.fp8) flags.bench.mixers = bench::beside_fp8(flags.bench.mixers);
  flags.bench.cache_in_8_bits = in_8_bits(flags.cache);
  use_threads(flags.threads);
  const bench::LayerReport report = bench::run_layer_bench(flags.bench);
  if (flags.json) {
    print_json(bench::to_json(report));
  } else {
    fmt::print("{}", bench::to_table(report));
  }
  if (flags.plot.empty()) return;
  for (const std::string& mode : flags.bench.modes) {
    const std::string path = fmt::format("{}-{}.svg", flags.plot, mode);
    write_file(path, bench::to_plot(report, mode));
    note("wrote " + path);
  }
}

void declare(CLI::App& verb) {
  auto flags = std::make_shared<Flags>();
  bench::LayerBench& b = flags->bench;
  verb.add_option(
          "--mixers", b.mixers,
          "rat:L, swa:W, rnn, attention, attention:torch, products (rat's matrix products alone); with +fp8 at the "
          "end, as in rat:16+fp8, projections multiply in fp8")
      ->delimiter(',')
      ->capture_default_str();
  verb.add_option("--seq", b.seq, "sequence lengths")->delimiter(',')->capture_default_str();
  verb.add_option("--batch", b.batch, "sequences a call")->capture_default_str();
  verb.add_option("--tokens", b.tokens, "tokens a call instead of --batch: the batch is TOKENS / seq");
  verb.add_option("--mode", b.modes,
                  "train, prefill, decode (on a GPU decoding steps of many layers in a recorded graph, as in a model)")
      ->delimiter(',')
      ->capture_default_str();
  verb.add_option("--documents", b.documents, "lengths of documents that fill each row, over and over")
      ->delimiter(',')
      ->type_name("N,...");
  verb.add_option("--against", b.against, "the mixer that speed compares with (attention, else the last)");
  verb.add_option("--d-model", b.d_model, "width")->capture_default_str();
  verb.add_option("--heads", b.heads, "heads")->capture_default_str();
  verb.add_option("--groups", b.groups, "query/key groups of rat")->capture_default_str();
  verb.add_option("--device", flags->device, "cpu, cuda, cuda:N")->capture_default_str();
  verb.add_option("--dtype", flags->dtype, "fp32 or bf16")->capture_default_str();
  verb.add_flag("--fp8", flags->fp8, "each mixer also with its projections in fp8 (--dtype bf16)");
  declare_cache(verb, flags->cache);
  verb.add_option("--threads", flags->threads, "0: one a core");
  declare_budget(verb, b.budget);
  verb.add_option("--note", b.note, "a line for the report, such as the commit");
  verb.add_option("--plot", flags->plot, "write NAME-<mode>.svg: time against T")->type_name("NAME");
  verb.add_flag("--json", flags->json, "print one JSON document");
  verb.callback([flags] { run(*flags); });
}

}  // namespace bench_layer_file

extern const Verb bench_layer_verb;
const Verb bench_layer_verb = {"layer", "one mixing layer of each mixer, in training, prefill and decoding",
                               bench_layer_file::declare};

}  // namespace rattan::cli
