// rattan data pack|info
#include <unistd.h>

#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>

#include "rattan/base/error.h"
#include "rattan/base/files.h"
#include "rattan/cli/input_flags.h"
#include "rattan/data/dataset.h"
#include "rattan/data/pack.h"

namespace rattan::cli {
namespace data_file {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

struct PackFlags {
  PackConfig config;
  std::string tokenizer, out;
  bool json = false;
};

struct InfoFlags {
  std::string folder;
  bool verify = false, json = false;
};

json splits_json(const Manifest& manifest) {
  json splits = json::object();
  for (const auto& [name, split] : manifest.splits)
    splits[name] = {{"documents", split.documents},
                    {"tokens", split.tokens},
                    {"bytes", split.bytes},
                    {"bytes_per_token",
                     split.tokens > 0 ? static_cast<double>(split.bytes) / static_cast<double>(split.tokens) : 0.0},
                    {"shards", split.shards.size()}};
  return splits;
}

std::string splits_text(const Manifest& manifest) {
  std::string text;
  for (const auto& [name, split] : manifest.splits)
    text += fmt::format("{:<8} {} documents, {} tokens, {} bytes ({:.2f} bytes a token), {} shard{}\n", name,
                        split.documents, split.tokens, split.bytes,
                        static_cast<double>(split.bytes) / static_cast<double>(std::max<int64_t>(1, split.tokens)),
                        split.shards.size(), split.shards.size() == 1 ? "" : "s");
  return text;
}

// A line on a terminal that is written over; nothing elsewhere.
std::function<void(int64_t)> progress_line(Clock::time_point start) {
  if (!isatty(STDERR_FILENO)) return {};
  auto shown = std::make_shared<double>(0);
  return [=](int64_t bytes) {
    double seconds = seconds_since(start);
    if (seconds < *shown + 0.5) return;
    *shown = seconds;
    double megabytes = static_cast<double>(bytes) / 1e6;
    fmt::print(stderr, "\r{:.0f} MB read, {:.1f} MB/s ", megabytes, megabytes / seconds);
  };
}

void pack(PackFlags& flags) {
  auto start = Clock::now();
  flags.config.tokenizer = flags.tokenizer;
  flags.config.out = flags.out;
  flags.config.progress = progress_line(start);
  PackReport report = rattan::pack(flags.config);
  double seconds = seconds_since(start);
  if (flags.json)
    return print_json({{"path", flags.out},
                       {"tokenizer", report.manifest.tokenizer},
                       {"vocab_size", report.manifest.vocab_size},
                       {"files", report.files},
                       {"ignored_files", report.ignored_files},
                       {"empty_documents", report.empty_documents},
                       {"seconds", seconds},
                       {"splits", splits_json(report.manifest)}});
  fmt::print(stderr, "{}{}: packed {} file{} in {:.1f} s\n{}", flags.config.progress ? "\r" : "", flags.out,
             report.files, report.files == 1 ? "" : "s", seconds, splits_text(report.manifest));
  if (report.empty_documents > 0) fmt::print(stderr, "left out {} empty documents\n", report.empty_documents);
  if (report.ignored_files > 0)
    fmt::print(stderr, "left out {} files of other kinds (--format would read them)\n", report.ignored_files);
}

void info(const InfoFlags& flags) {
  std::filesystem::path path = std::filesystem::path(flags.folder) / "manifest.json";
  std::error_code error;
  require(std::filesystem::exists(path, error),
          "{}: not packed data (there is no manifest.json in it); make it with `rattan data pack`", flags.folder);
  Manifest manifest = Manifest::from_json(read_file(path), path.string());
  std::string kind;
  bool lossless = false;
  for (const auto& [name, split] : manifest.splits) {
    Dataset data(flags.folder, name, flags.verify);
    kind = data.tokenizer().kind();
    lossless = data.tokenizer().lossless();
  }
  if (flags.json)
    return print_json({{"path", flags.folder},
                       {"tokenizer", manifest.tokenizer},
                       {"kind", kind},
                       {"lossless", lossless},
                       {"vocab_size", manifest.vocab_size},
                       {"eos", manifest.eos},
                       {"verified", flags.verify},
                       {"splits", splits_json(manifest)}});
  fmt::print("tokenizer {} ({} pieces, end of document {})\n{}{}", manifest.tokenizer, manifest.vocab_size,
             manifest.eos, splits_text(manifest), flags.verify ? "all checksums match\n" : "");
}

void declare_pack(CLI::App& verb) {
  auto flags = std::make_shared<PackFlags>();
  PackConfig& config = flags->config;
  verb.add_option("input", config.inputs, ".txt and .jsonl files (also .gz, .zst), folders, or - for standard input")
      ->required();
  verb.add_option("--tokenizer", flags->tokenizer, "a .model file, a folder with a tokenizer, or the word bytes")
      ->required();
  verb.add_option("--out", flags->out, "the folder to make")->required();
  add_input_flags(verb, config.input);
  verb.add_option("--valid-fraction", config.holdout.fraction,
                  "hold out this fraction of the documents as split \"valid\"");
  verb.add_option("--valid-count", config.holdout.count, "hold out this many documents, chosen by the seed");
  verb.add_option("--holdout-last", config.holdout.last, "hold out the last N documents");
  verb.add_option("--seed", config.holdout.seed, "of the choice of held-out documents")->capture_default_str();
  verb.add_option("--threads", config.threads, "0: one a core")->capture_default_str();
  verb.add_option("--shard-tokens", config.shard_tokens, "size at which a new shard is begun")->capture_default_str();
  verb.add_flag("--overwrite", config.overwrite, "replace packed data that is there");
  verb.add_flag("--json", flags->json, "print one JSON document");
  verb.callback([flags] { pack(*flags); });
}

void declare_info(CLI::App& verb) {
  auto flags = std::make_shared<InfoFlags>();
  verb.add_option("folder", flags->folder, "packed data")->required();
  verb.add_flag("--verify", flags->verify, "read everything and compare checksums");
  verb.add_flag("--json", flags->json, "print one JSON document");
  verb.callback([flags] { info(*flags); });
}

void declare(CLI::App& verb) {
  verb.require_subcommand(1);
  declare_pack(*verb.add_subcommand("pack", "text to token shards"));
  declare_info(*verb.add_subcommand("info", "what packed data holds, and whether it is whole"));
}

}  // namespace data_file

extern const Verb data_verb;
const Verb data_verb = {"data", "pack text into token shards and inspect them", data_file::declare};

}  // namespace rattan::cli
