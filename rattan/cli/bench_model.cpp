// rattan bench model CONFIG|MODEL ...: whole models in decoding, prefill and training.
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "rattan/base/error.h"
#include "rattan/bench/model.h"
#include "rattan/cli/bench_flags.h"
#include "rattan/cli/config_file.h"
#include "rattan/cli/model_flags.h"

namespace rattan::cli {
namespace bench_model_file {

struct Flags {
  bench::ModelBench bench;
  std::vector<std::string> models, overrides, batch = {"1"};
  std::string device = "cpu", dtype = "auto";
  double peak_tflops = 0;
  int threads = 0;
  std::string cache = "full";
  bool no_graph = false, json = false;
};

// A configuration file, or a folder with a model's own. Only what is needed to build the model is read.
bench::NamedModel read_model(const std::string& path, const std::vector<std::string>& overrides) {
  const std::filesystem::path file(path);
  std::error_code none;
  if (std::filesystem::is_regular_file(file, none)) return {file.stem(), read_config_file(file, overrides).model};
  require(overrides.empty(), "--set changes configuration files; {} is none", path);
  const std::filesystem::path name = file.has_filename() ? file.filename() : file.parent_path().filename();
  return {name, models::stored_language_model(file).config};
}

int64_t read_batch(const std::string& text) {
  if (text == "auto") return 0;
  require(!text.empty() && text.size() < 10 && text.find_first_not_of("0123456789") == std::string::npos &&
              std::stoll(text) > 0,
          "--batch takes numbers of at least 1, or auto, not '{}'", text);
  return std::stoll(text);
}

void run(Flags& flags) {
  bench::ModelBench& b = flags.bench;
  b.device = models::device_named(flags.device);
  const models::Precision precision = models::precision_named(flags.dtype);
  b.fp8 = precision.fp8;
  b.dtype = precision.compute.value_or(b.device.is_cuda() ? at::kBFloat16 : at::kFloat);
  b.graph = !flags.no_graph;
  if (flags.peak_tflops > 0) b.peak_flops = flags.peak_tflops * 1e12;
  b.models.clear(), b.batch.clear();
  for (const std::string& path : flags.models) b.models.push_back(read_model(path, flags.overrides));
  for (const std::string& text : flags.batch) b.batch.push_back(read_batch(text));
  b.cache_in_8_bits = in_8_bits(flags.cache);
  use_threads(flags.threads);
  const bench::ModelReport report = bench::run_model_bench(b);
  if (flags.json) {
    print_json(bench::to_json(report));
  } else {
    fmt::print("{}", bench::to_table(report));
  }
}

void declare(CLI::App& verb) {
  auto flags = std::make_shared<Flags>();
  bench::ModelBench& b = flags->bench;
  verb.add_option("models", flags->models, "configuration files or model folders; the weights are random")
      ->required()
      ->type_name("CONFIG|MODEL");
  verb.add_option("--mode", b.modes, "decode, prefill, train")->delimiter(',')->capture_default_str();
  verb.add_option("--batch", flags->batch,
                  "decode: sequences; auto: as many as give the most tokens/s in the GPU's memory")
      ->delimiter(',')
      ->capture_default_str();
  verb.add_option("--from", b.from, "decode: first position")->capture_default_str();
  verb.add_option("--count", b.count, "decode: positions from there on")->capture_default_str();
  verb.add_option("--stride", b.stride, "decode: take every N-th of these positions")
      ->type_name("N")
      ->capture_default_str();
  verb.add_option("--fill", b.fill,
                  "decode: what the states hold: random, or computed (a prompt of random tokens is read)")
      ->capture_default_str();
  verb.add_flag("--no-graph", flags->no_graph, "decode: launch every kernel of a step from the host");
  verb.add_option("--seq", b.seq, "prefill, train: sequence lengths")->delimiter(',')->capture_default_str();
  verb.add_option("--rows", b.rows, "prefill, train: sequences of a call, the micro-batch")->capture_default_str();
  verb.add_option("--accumulation", b.accumulation, "train: micro-batches of an optimizer step")->capture_default_str();
  verb.add_option("--updates", b.updates, "train: optimizer steps of a timed call")->capture_default_str();
  verb.add_flag("--checkpointing", b.checkpointing,
                "train: recompute activations in the backward pass, all but what attention and RAT mixed");
  verb.add_option("--peak", flags->peak_tflops, "TFLOP/s of the data sheet (known: 989.4 for an H100 or H200)")
      ->check(CLI::PositiveNumber);
  verb.add_option("--set", flags->overrides, "change a key of every configuration, as model.n_layers=2")
      ->type_name("KEY=VALUE");
  verb.add_option("--device", flags->device, "cpu, cuda, cuda:N")->capture_default_str();
  verb.add_option("--dtype", flags->dtype, "fp32, bf16, fp8, fp8_emulated or auto (cuda: bf16, cpu: fp32)")
      ->capture_default_str();
  declare_cache(verb, flags->cache);
  verb.add_option("--threads", flags->threads, "0: one a core");
  declare_budget(verb, b.budget);
  verb.add_option("--note", b.note, "a line for the report, such as the commit");
  verb.add_flag("--json", flags->json, "print one JSON document");
  verb.callback([flags] { run(*flags); });
}

}  // namespace bench_model_file

extern const Verb bench_model_verb;
const Verb bench_model_verb = {"model", "whole models in decoding, prefill and training", bench_model_file::declare};

}  // namespace rattan::cli
