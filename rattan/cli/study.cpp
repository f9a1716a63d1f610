// rattan study FILE [key=value ...]: trains the arms of a study, measures them and says whether expectations hold.
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "rattan/base/error.h"
#include "rattan/cli/model_flags.h"
#include "rattan/eval/study/metric.h"
#include "rattan/eval/study/report.h"
#include "rattan/eval/study/text.h"

namespace rattan::cli {
namespace study_file {

namespace fs = std::filesystem;

struct Flags {
  std::string file, out;
  std::vector<std::string> overrides, arms;
  std::vector<int64_t> seeds;
  bool plan = false, prepare = false, report = false, quiet = false, json = false;
};

// What a run of the arm costs, for --plan.
struct Cost {
  int64_t steps, tokens;
  double flops;
};

Cost cost_of(const study::Study& study, const study::Arm& arm, int64_t steps) {
  const int64_t tokens = steps * study::tokens_per_step(arm.setup, study.file.study.task);
  return {steps, tokens, static_cast<double>(tokens) * arm.size.training_flops};
}

std::string flops_text(double flops) { return fmt::format("{:.3g}", flops); }

nlohmann::json cost_json(const Cost& cost) {
  return {{"steps", cost.steps}, {"tokens", cost.tokens}, {"flops", cost.flops}};
}

// Sizes and costs; nothing is read but the study's file.
void plan(const Flags& flags, const study::Study& study) {
  std::vector<std::vector<std::string>> rows = {{"arm", "seeds", "parameters", "without embedding", "state",
                                                 "tokens a run", "FLOPs a run", "FLOPs of its rates"}};
  nlohmann::json arms = nlohmann::json::array();
  double all = 0;
  for (const study::Arm& arm : study.arms) {
    const Cost run = cost_of(study, arm, arm.setup.train.steps);
    Cost tries = cost_of(study, arm, study.file.tune.steps);
    tries.flops *= static_cast<double>(arm.lr.size());
    all += run.flops * static_cast<double>(arm.seeds.size()) + tries.flops;
    const int64_t state = study::state_bytes(arm.setup, arm.setup.model.context);
    rows.push_back({arm.label, std::to_string(arm.seeds.size()), study::grouped(arm.size.parameters),
                    study::grouped(arm.size.non_embedding), study::show("state_bytes", static_cast<double>(state)),
                    study::grouped(run.tokens), flops_text(run.flops), arm.lr.empty() ? "-" : flops_text(tries.flops)});
    arms.push_back({{"name", arm.name},
                    {"seeds", arm.seeds},
                    {"parameters", arm.size.parameters},
                    {"non_embedding_parameters", arm.size.non_embedding},
                    {"state_bytes", state},
                    {"training_flops_per_token", arm.size.training_flops},
                    {"run", cost_json(run)},
                    {"learning_rates", arm.lr},
                    {"learning_rate_flops", arm.lr.empty() ? 0.0 : tries.flops}});
  }
  if (flags.json)
    return print_json({{"title", study.file.study.title}, {"out", flags.out}, {"arms", arms}, {"training_flops", all}});
  fmt::print("{}\nall runs: {} training FLOPs; evaluation comes on top\n", study::aligned(rows), flops_text(all));
}

void prepare(const Flags& flags, const study::Study& study) {
  require(study.learns_text(), "--prepare makes the data of a study that names texts in [text]; {} does not",
          flags.file);
  std::error_code problem;
  fs::create_directories(study.folder, problem);
  if (problem) fail("{}: cannot be made: {}", flags.out, problem.message());
  study::prepare_text(study, [](const std::string& text) { note(text); });
  if (flags.json) print_json({{"out", flags.out}, {"data", (study.folder / "data").string()}});
}

void run(Flags& flags) {
  if (flags.out.empty()) flags.out = (fs::path("runs") / fs::path(flags.file).stem()).string();
  const study::Study study = study::read_study(flags.file, flags.overrides, flags.out);
  require(flags.plan + flags.prepare + flags.report <= 1, "--plan, --prepare and --report each stand alone");
  if (flags.plan) return plan(flags, study);
  if (flags.prepare) return prepare(flags, study);
  if (flags.report) {
    require(flags.arms.empty() && flags.seeds.empty(),
            "--report shows all that is finished; --arm and --seed choose what to run");
    std::error_code none;
    require(fs::exists(study.folder / "study.toml", none), "{}: no study was begun there", flags.out);
  } else {
    study::Selection selection{flags.arms, flags.seeds, flags.quiet, [](const std::string& text) { note(text); }};
    study::run_study(study, selection);
  }
  const study::Results results = study::results(study);
  study::write_reports(study, results);
  if (flags.json) {
    print_json(study::to_json(study, results));
  } else {
    const std::string findings = study::to_findings(results);
    fmt::print("{}{}{}", study::to_table(study, results), findings.empty() ? "" : "\n", findings);
    note(fmt::format("the report: {}", (study.folder / "study.md").string()));
    if (!results.complete) note("runs are missing; the command without --arm and --seed makes them");
  }
  if (results.failed() > 0) fail("{} of {} expectations do not hold", results.failed(), results.findings.size());
}

void declare(CLI::App& verb) {
  auto flags = std::make_shared<Flags>();
  verb.add_option("file", flags->file, "a study file (docs/study.md)")->required()->type_name("FILE");
  verb.add_option("overrides", flags->overrides, "settings laid over it: train.steps=100")->type_name("KEY=VALUE");
  verb.add_option("--out", flags->out, "the study's folder (default: runs/<name of FILE>)")->type_name("FOLDER");
  verb.add_option("--arm", flags->arms, "run these arms only")->delimiter(',')->allow_extra_args(false);
  verb.add_option("--seed", flags->seeds, "run these seeds only")->delimiter(',')->allow_extra_args(false);
  verb.add_flag("--plan", flags->plan, "show sizes and costs of the arms, and run nothing");
  verb.add_flag("--prepare", flags->prepare, "make vocabulary and data of a study that names texts, and run nothing");
  verb.add_flag("--report", flags->report, "make table and plots of what is finished, and run nothing");
  verb.add_flag("--quiet", flags->quiet, "no progress of single runs");
  verb.add_flag("--json", flags->json, "print one JSON document");
  verb.footer(
      "Interrupted, the same command goes on where it was; what is finished is not run again. Exit codes: 0 all ran\n"
      "and every expectation that can be judged holds, 1 one does not (or a run failed), 2 wrong use or input, or the\n"
      "study has changed since it was begun, 130 interrupted with everything saved.");
  verb.callback([flags] { run(*flags); });
}

}  // namespace study_file

extern const Verb study_verb;
const Verb study_verb = {"study", "train arms over seeds, compare them, and judge expectations", study_file::declare};

}  // namespace rattan::cli
