#include "rattan/cli/training_session.h"

#include <ATen/Parallel.h>

#include <nlohmann/json.hpp>

#include "rattan/base/config.h"
#include "rattan/base/error.h"
#include "rattan/base/parallel.h"
#include "rattan/cli/model_flags.h"
#include "rattan/infer/generator.h"
#include "rattan/train/calibrate.h"

namespace rattan::cli {
namespace training_session_file {

namespace fs = std::filesystem;

std::function<std::string(int64_t)> sampler(models::LanguageModel& model, const Tokenizer& tokenizer,
                                            const train::RunConfig& config) {
  return [&model, &tokenizer, &config](int64_t) {
    infer::Request request;
    request.prompt = tokenizer.encode(config.sample_prompt);
    request.max_tokens = config.sample_tokens;
    request.sampling.temperature = config.sample_temperature;
    request.end_token = tokenizer.eos();
    return config.sample_prompt + infer::Generator(model, tokenizer).run({request}).front().text;
  };
}

void calibrate(ConfigFile& config, const TrainingSession& session) {
  auto start = session.start();
  config.train.steps = train::calibrate_steps(*start.model, *start.task, config.train, config.run.minutes * 60);
  note(fmt::format("calibration: {} steps fit into {:.4g} minutes", config.train.steps, config.run.minutes));
  config.run.minutes = 0;  // the number is stored; a resumed run must not choose another
}

}  // namespace training_session_file

std::string to_text(ConfigFile config) {
  return to_toml([&](Fields& f) { config.fields(f); });
}

TrainingSession::TrainingSession(const ConfigFile& config)
    : config_(config), device_(models::device_named(config.run.device)) {
  if (config.run.threads <= 0) return;
  set_threads(static_cast<int>(config.run.threads));
  at::set_num_threads(static_cast<int>(config.run.threads));
}

std::unique_ptr<tasks::LanguageModeling> TrainingSession::task() const {
  auto made = std::make_unique<tasks::LanguageModeling>(config_.data, static_cast<uint64_t>(config_.train.seed));
  const int64_t size = made->tokenizer().vocab_size();
  require(size <= config_.model.vocab_size,
          "model.vocab_size is {}, but the data's vocabulary has {} tokens; set model.vocab_size={}",
          config_.model.vocab_size, size, size);
  return made;
}

std::unique_ptr<models::LanguageModel> TrainingSession::model() const {
  auto made = std::make_unique<models::LanguageModel>(config_.model);
  made->initialize(static_cast<uint64_t>(config_.train.seed), at::kFloat, device_);
  return made;
}

train::Start TrainingSession::start() const {
  auto data = task();
  return {model(), std::move(data)};
}

train::RunResult run_training(ConfigFile& config, const TrainingFlags& flags) {
  using namespace training_session_file;
  TrainingSession session(config);
  train::require_free_or_resumed(flags.out, flags.resume);
  if (config.run.minutes > 0) calibrate(config, session);
  auto task = session.task();
  auto model = session.model();
  train::RunSpec spec;
  spec.folder = flags.out;
  spec.title = fs::path(flags.out).lexically_normal().filename().string();
  spec.config_toml = to_text(config);
  spec.save_model = [&](const fs::path& folder, const train::Tensors&) {
    models::save_language_model(folder, *model, &task->tokenizer());
  };
  spec.sample = sampler(*model, task->tokenizer(), config.run);
  spec.resume = flags.resume;
  spec.from_step = flags.from;
  spec.progress.quiet = flags.quiet;
  return train::run(*model, *task, config.train, config.run, spec);
}

nlohmann::json training_json(const TrainingFlags& flags, const train::RunResult& result) {
  return {{"out", flags.out},
          {"checkpoint", result.checkpoint.string()},
          {"steps", result.fit.steps},
          {"tokens", result.tokens},
          {"seconds", result.seconds},
          {"tokens_per_second", result.tokens_per_second},
          {"mfu", result.flops_per_second / result.peak_flops},
          {"peak_flops", result.peak_flops},
          {"validation", result.fit.final_report}};
}

std::string training_summary(const ConfigFile& config, const TrainingFlags& flags, const train::RunResult& result) {
  std::string speed = fmt::format("{}: {} steps, {} tokens in {}, {} tokens/s, {:.0f} % of {:.2f} TFLOP/s ({})",
                                  flags.out, result.fit.steps, train::human_count(static_cast<double>(result.tokens)),
                                  train::human_duration(result.seconds), train::human_count(result.tokens_per_second),
                                  100 * result.flops_per_second / result.peak_flops, result.peak_flops / 1e12,
                                  config.train.precision == "fp32" ? "fp32" : "bf16");
  return fmt::format("{}\nthe model: {}\nthe report: {}", speed, result.checkpoint.string(),
                     (std::filesystem::path(flags.out) / "report.html").string());
}

}  // namespace rattan::cli
