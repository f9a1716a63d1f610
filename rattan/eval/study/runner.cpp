#include "rattan/eval/study/runner.h"

#include <ATen/Parallel.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "rattan/base/config.h"
#include "rattan/base/error.h"
#include "rattan/base/files.h"
#include "rattan/base/parallel.h"
#include "rattan/eval/study/text.h"
#include "rattan/models/load.h"
#include "rattan/train/run.h"
#include "rattan/train/stop_signals.h"

namespace rattan::study {
namespace runner_file {

namespace fs = std::filesystem;

// One training run of a study.
struct Job {
  const Arm* arm = nullptr;
  Setup setup;
  fs::path folder;
  std::string name;  // "arm 'rat16', seed 2"
  Evaluation how;    // what is measured of it
};

Job seed_job(const Study& study, const Arm& arm, int64_t seed, std::optional<double> lr) {
  Job job{&arm, arm.setup, study.folder / "runs" / arm.name / fmt::format("seed-{}", seed),
          fmt::format("arm '{}', seed {}", arm.name, seed), study.file.evaluate};
  job.setup.train.seed = seed;
  job.setup.recall.seed = static_cast<uint64_t>(seed);
  if (lr) job.setup.train.lr = *lr;
  return job;
}

Job rate_job(const Study& study, const Arm& arm, double lr) {
  Job job{&arm, arm.setup, study.folder / "runs" / arm.name / fmt::format("lr-{:g}", lr),
          fmt::format("arm '{}', learning rate {:g}", arm.name, lr), Evaluation{}};
  job.setup.train.lr = lr;
  job.setup.train.steps = study.file.tune.steps;
  job.setup.train.seed = study.file.tune.seed;
  job.setup.recall.seed = static_cast<uint64_t>(study.file.tune.seed);
  return job;
}

// InputError if the folder holds a run of another configuration.
void require_same(const Study& study, const Job& job, bool lr_known) {
  const fs::path stored = job.folder / "config.toml";
  std::error_code none;
  if (!fs::exists(stored, none)) return;
  auto now = flatten(job.setup, study.file.study.task);
  auto before = flatten_toml(read_file(stored), stored.string());
  for (auto* keys : {&now, &before}) {
    if (!lr_known) keys->erase("train.lr");
    // Data of the study's own texts moves with its folder; text.toml stands for it.
    if (study.learns_text()) keys->erase("data.sources.0.path");
  }
  const auto changed = differences(now, before);
  require(changed.empty(),
          "the study has changed since {} was begun ({}): {}. Put it back, choose another folder with --out, or remove "
          "{} to train it anew",
          job.folder.string(), job.name, fmt::join(changed, "; "), job.folder.string());
}

train::RunSpec run_spec(const Job& job, const std::string& task, models::LanguageModel& model, const StudyTask& made,
                        bool quiet) {
  train::RunSpec spec;
  spec.folder = job.folder;
  spec.title = job.name;
  spec.config_toml = to_text(job.setup, task);
  spec.save_model = [&model, &made](const fs::path& folder, const train::Tensors&) {
    models::save_language_model(folder, model, made.tokenizer);
  };
  spec.resume = true;
  spec.progress.quiet = quiet;
  return spec;
}

Measured train_and_measure(const Study& study, const Job& job, bool quiet) {
  const std::string& task = study.file.study.task;
  const Setup& setup = job.setup;
  if (setup.run.threads > 0) {
    set_threads(static_cast<int>(setup.run.threads));
    at::set_num_threads(static_cast<int>(setup.run.threads));
  }
  Measured out;
  out.lr = setup.train.lr;
  const StudyTask made = make_task(setup, task);
  models::LanguageModel model(setup.model);
  model.initialize(static_cast<uint64_t>(setup.train.seed), at::kFloat, models::device_named(setup.run.device));
  try {
    const train::RunResult result =
        train::run(model, *made.task, setup.train, setup.run, run_spec(job, task, model, made, quiet));
    out.steps = result.fit.steps;
    out.tokens = result.tokens;
    out.report = result.fit.final_report;
  } catch (const train::NotFinite& error) {
    out.diverged = error.step;
    return out;
  }
  read_log(job.folder, out);
  if (job.how.position_factor > 0) {
    out.by_position = loss_by_position(model, setup.data, job.how, [] {
      if (train::StopSignals::requested()) throw Interrupted("stopped while measuring; the training is saved");
    });
  }
  return out;
}

void run_job(const Study& study, const Job& job, const Selection& selection) {
  if (load(job.how, job.folder)) return;
  if (train::StopSignals::requested())
    throw Interrupted("stopped between two runs; the same command goes on from there");
  selection.note(job.name);
  require_same(study, job, true);
  try {
    const Measured measured = train_and_measure(study, job, selection.quiet);
    if (measured.diverged) selection.note(fmt::format("{}: diverged at step {}", job.name, *measured.diverged));
    save(measured, job.how, job.folder);
  } catch (const Interrupted& stopped) {
    std::string what = stopped.what();
    if (const std::size_t at = what.find(" --resume continues."); at != std::string::npos) what.erase(at);
    throw Interrupted(fmt::format("{}: {}\nThe same command goes on from there.", job.name, what));
  } catch (const InputError& error) {
    fail_input("{}: {}", job.name, error.what());
  } catch (const std::exception& error) {
    fail("{}: {}", job.name, error.what());
  }
}

bool chosen(int64_t seed, const std::vector<int64_t>& seeds) {
  return seeds.empty() || std::find(seeds.begin(), seeds.end(), seed) != seeds.end();
}

std::vector<const Arm*> selected(const Study& study, const Selection& selection) {
  std::vector<const Arm*> out;
  if (selection.arms.empty()) {
    for (const Arm& arm : study.arms) out.push_back(&arm);
  } else {
    for (const std::string& name : selection.arms) out.push_back(&study.arm(name));
  }
  for (int64_t seed : selection.seeds) {
    require(std::any_of(out.begin(), out.end(), [&](const Arm* arm) { return chosen(seed, arm->seeds); }),
            "no selected arm has the seed {}; study.seeds and the arms' own seeds name those there are", seed);
  }
  return out;
}

}  // namespace runner_file

bool ArmRuns::finished() const {
  return std::all_of(runs.begin(), runs.end(), [](const auto& run) { return run.has_value(); });
}

int64_t ArmRuns::diverged() const {
  return std::count_if(runs.begin(), runs.end(), [](const auto& run) { return run && run->diverged; });
}

std::optional<double> chosen_rate(const Arm& arm, const std::vector<std::optional<Measured>>& candidates) {
  if (arm.lr.empty()) return arm.setup.train.lr;
  std::optional<double> rate;
  double least = 0;
  for (std::size_t i = 0; i < arm.lr.size(); ++i) {
    if (!candidates[i]) return std::nullopt;
    const auto loss = candidates[i]->metric("loss");
    if (!loss) continue;
    if (!rate || *loss < least || (*loss == least && arm.lr[i] < *rate)) rate = arm.lr[i], least = *loss;
  }
  return rate;
}

std::vector<ArmRuns> collect(const Study& study) {
  using namespace runner_file;
  std::vector<ArmRuns> out;
  for (const Arm& arm : study.arms) {
    ArmRuns& runs = out.emplace_back();
    runs.arm = &arm;
    for (double lr : arm.lr) {
      const Job job = rate_job(study, arm, lr);
      require_same(study, job, true);
      runs.candidates.push_back(load(job.how, job.folder));
    }
    runs.lr = chosen_rate(arm, runs.candidates);
    for (int64_t seed : arm.seeds) {
      const Job job = seed_job(study, arm, seed, runs.lr);
      require_same(study, job, runs.lr.has_value());
      runs.runs.push_back(load(job.how, job.folder));
    }
  }
  return out;
}

void run_study(const Study& study, const Selection& selection) {
  using namespace runner_file;
  const auto arms = selected(study, selection);
  collect(study);  // refuses a changed study before anything is written
  if (study.learns_text()) prepare_text(study, selection.note);
  std::error_code problem;
  fs::create_directories(study.folder, problem);
  if (problem) fail("{}: cannot be made: {}", study.folder.string(), problem.message());
  StudyFile file = study.file;
  write_file(study.folder / "study.toml", to_toml([&](Fields& f) { file.fields(f); }));
  train::StopSignals signals;
  for (const Arm* arm : arms) {
    std::vector<std::optional<Measured>> candidates;
    for (double lr : arm->lr) {
      const Job job = rate_job(study, *arm, lr);
      run_job(study, job, selection);
      candidates.push_back(load(job.how, job.folder));
    }
    const auto lr = chosen_rate(*arm, candidates);
    if (!lr) fail("arm '{}': the loss was not finite at any of its learning rates; offer lower ones", arm->name);
    for (int64_t seed : arm->seeds)
      if (chosen(seed, selection.seeds)) run_job(study, seed_job(study, *arm, seed, lr), selection);
  }
}

}  // namespace rattan::study
