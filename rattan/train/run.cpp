#include "rattan/train/run.h"

#include <chrono>
#include <csignal>
#include <nlohmann/json.hpp>
#include <system_error>

#include "rattan/base/error.h"
#include "rattan/base/files.h"
#include "rattan/io/checkpoint.h"
#include "rattan/io/tensorboard.h"
#include "rattan/train/metrics.h"
#include "rattan/train/peak.h"
#include "rattan/train/run_report.h"
#include "rattan/train/samples.h"
#include "rattan/train/stop_signals.h"

namespace rattan::train {
namespace run_file {

namespace fs = std::filesystem;

// The files of a run while it goes on.
class Recorder {
 public:
  Recorder(models::Model& model, Task& task, const FitConfig& fit, const RunConfig& config, const RunSpec& spec,
           RunState& state)
      : model_(model),
        task_(task),
        fit_(fit),
        config_(config),
        spec_(spec),
        state_(state),
        seen_(state.fit.step),
        metrics_(spec.folder / "metrics.jsonl", state.fit.step),
        board_(spec.folder / "tb", state.fit.step > 0 ? state.fit.step : -1),
        progress_(fit.steps, state.fit.step, spec.progress) {
    drop_samples_after(spec.folder / "samples.txt", state.fit.step);
    prepare(model, fit);
    at::Device device = at::Device(config.device);
    result.peak_flops = config.peak_tflops > 0 ? config.peak_tflops * 1e12 : measure_peak_flops(model.compute, device);
  }

  FitHooks hooks() {
    FitHooks hooks;
    hooks.on_step = [this](const StepReport& report) { on_step(report); };
    hooks.on_evaluation = [this](int64_t step, const Report& report) { on_evaluation(step, report); };
    hooks.after_step = [this](const FitState& fit) { return after_step(fit); };
    return hooks;
  }

  void finish() {
    board_.flush();
    progress_.finish();
    write_report(spec_, fit_);
  }
  void note(const std::string& text) { progress_.note(text); }

  RunResult result;

 private:
  void on_step(const StepReport& r) {
    state_.tokens += r.units;
    state_.seconds += r.seconds;
    tokens_ += r.units;
    flops_ += r.flops;
    seconds_ += r.seconds;
    result.tokens_per_second = static_cast<double>(tokens_) / seconds_;
    result.flops_per_second = flops_ / seconds_;
    Report values = r.extra;
    values["loss"] = r.loss;
    values["grad_norm"] = r.grad_norm;
    values["lr"] = r.lr;
    values["tokens_per_second"] = static_cast<double>(r.units) / r.seconds;
    values["mfu"] = r.flops / r.seconds / result.peak_flops;
    record(r.step, "train/", "", values, {{"tokens", state_.tokens}, {"seconds", state_.seconds}});
    progress_.update(r.step, r.loss, r.units);
  }

  void on_evaluation(int64_t step, const Report& report) {
    if (report.empty()) return;
    record(step, "valid/", "valid_", report, nlohmann::json::object());
    board_.flush();
    std::string text = fmt::format("step {}: validation", step);
    for (const auto& [name, value] : report) {
      if (name != "tokens") text += fmt::format("  {} {:.4f}", name, value);
    }
    note(text);
  }

  void record(int64_t step, const char* folder, const char* prefix, const Report& values, nlohmann::json line) {
    line["step"] = step;
    for (const auto& [name, value] : values) {
      line[prefix + name] = value;
      board_.scalar(folder + name, step, value);
    }
    metrics_.append(line);
  }

  bool after_step(const FitState& fit) {
    bool last = fit.step >= fit_.steps;
    auto crossed = [&](int64_t every) { return every > 0 && fit.step / every > seen_ / every; };
    if (spec_.sample && config_.sample_tokens > 0 && (last || crossed(config_.sample_every))) sample(fit.step);
    bool stop = StopSignals::requested();
    if (last || stop || crossed(config_.checkpoint_every)) save();
    seen_ = fit.step;
    return stop && !last;
  }

  void sample(int64_t step) {
    std::string text = spec_.sample(step);
    append_sample(spec_.folder / "samples.txt", {step, text});
    note(fmt::format("step {}: sample\n{}", step, text));
  }

  void save() {
    if (!fs::exists(spec_.folder / "config.toml")) {
      fail("{}: the run folder has vanished; the checkpoint of step {} was not written", spec_.folder.string(),
           state_.fit.step);
    }
    board_.flush();
    auto root = checkpoints_of(spec_.folder);
    auto written = write_checkpoint(root, state_.fit.step, [this](const fs::path& folder) {
      save_run_state(folder, model_, task_, state_, spec_.save_model);
    });
    result.checkpoint = written.folder;
    prune_checkpoints(root, config_.keep_last, config_.keep_every);
  }

  models::Model& model_;
  Task& task_;
  const FitConfig& fit_;
  const RunConfig& config_;
  const RunSpec& spec_;
  RunState& state_;
  int64_t seen_;  // the step of the last look at what is due
  MetricsLog metrics_;
  TensorboardWriter board_;
  Progress progress_;
  int64_t tokens_ = 0;
  double flops_ = 0, seconds_ = 0;
};

// Makes the folder of a new run, or finds where an old one goes on.
std::optional<fs::path> open_folder(const RunSpec& spec) {
  require_free_or_resumed(spec.folder, spec.resume);
  auto root = checkpoints_of(spec.folder);
  std::error_code problem;
  fs::create_directories(root, problem);
  if (problem) fail("{}: cannot be made: {}", root.string(), problem.message());
  remove_leftovers(root);
  write_file(spec.folder / "config.toml", spec.config_toml);
  if (!spec.from_step) {
    auto latest = latest_checkpoint(root);
    return latest ? std::optional(latest->folder) : std::nullopt;
  }
  for (const Checkpoint& checkpoint : list_checkpoints(root)) {
    if (checkpoint.step == *spec.from_step) return checkpoint.folder;
  }
  fail_input("{}: holds no whole checkpoint of step {}", root.string(), *spec.from_step);
}

std::string rescue(const fs::path& folder) {
  std::error_code ignored;
  if (!fs::exists(checkpoints_of(folder), ignored)) return "No checkpoint of this run is left.";
  auto latest = latest_checkpoint(checkpoints_of(folder));
  if (!latest) return "No checkpoint was written before; nothing was lost but the steps made.";
  return fmt::format("The last whole checkpoint is {}; --resume continues from it.", latest->folder.string());
}

}  // namespace run_file

std::filesystem::path checkpoints_of(const std::filesystem::path& run_folder) { return run_folder / "checkpoints"; }

void require_free_or_resumed(const std::filesystem::path& run_folder, bool resume) {
  std::error_code none;
  bool used = std::filesystem::exists(run_folder / "metrics.jsonl", none) ||
              std::filesystem::exists(checkpoints_of(run_folder), none);
  if (used && !resume) {
    fail_input("{}: holds a run already; continue it with --resume, or choose another folder with --out",
               run_folder.string());
  }
}

RunResult run(models::Model& model, Task& task, const FitConfig& fit_config, const RunConfig& config,
              const RunSpec& spec) {
  using namespace run_file;
  learning_rate(fit_config, 1, fit_config.steps);  // refuses a schedule that cannot be before anything is written
  StopSignals signals;
  RunState state;
  if (auto checkpoint = open_folder(spec)) {
    verify_checkpoint(*checkpoint);
    load_run_state(*checkpoint, model, task, state);
  }
  Recorder recorder(model, task, fit_config, config, spec, state);
  if (state.fit.step > 0) recorder.note(fmt::format("continuing after step {}", state.fit.step));
  try {
    recorder.result.fit = fit(model, task, fit_config, state.fit, recorder.hooks());
    recorder.finish();
  } catch (const NotFinite& error) {
    recorder.finish();
    throw NotFinite(error.step, fmt::format("{} {}", error.what(), rescue(spec.folder)));
  } catch (const InputError& error) {
    throw InputError(fmt::format("{} {}", error.what(), rescue(spec.folder)));
  } catch (const std::exception& error) {
    fail("{} {}", error.what(), rescue(spec.folder));
  }
  RunResult result = recorder.result;
  result.tokens = state.tokens;
  result.seconds = state.seconds;
  if (result.fit.stopped) {
    throw Interrupted(fmt::format("stopped by {} after step {}; saved in {}. --resume continues.",
                                  StopSignals::signal() == SIGINT ? "SIGINT" : "SIGTERM", result.fit.steps,
                                  result.checkpoint.string()));
  }
  return result;
}

}  // namespace rattan::train
