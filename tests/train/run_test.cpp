#include "rattan/train/run.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <fstream>

#include "bigram.h"
#include "rattan/base/error.h"
#include "rattan/base/files.h"
#include "rattan/io/checkpoint.h"
#include "rattan/io/safetensors_tensors.h"
#include "rattan/train/metrics.h"
#include "rattan/train/samples.h"
#include "rattan/train/verify_resume.h"

namespace rattan::train {
namespace run_test_file {

namespace fs = std::filesystem;
using testing::HasSubstr;

struct Run : testing::Test {
  fs::path root = fs::path(testing::TempDir()) / ("rattan-run-" + std::to_string(getpid()));
  FitConfig fit = bigram::config(12);
  RunConfig config;

  void SetUp() override {
    fs::remove_all(root);
    config.checkpoint_every = 4;
    config.peak_tflops = 1;
    fit.eval_every = 6;
  }
  void TearDown() override { fs::remove_all(root); }

  RunSpec spec(const std::string& name, bool resume = false) {
    RunSpec s;
    s.folder = root / name;
    s.config_toml = "[train]\nsteps = 12\n";
    s.save_model = [](const fs::path& folder, const Tensors& t) { save_tensors(folder / "model.safetensors", t); };
    s.resume = resume;
    s.progress.quiet = true;
    return s;
  }
  RunResult go(const RunSpec& s) {
    bigram::Task task;
    return go(s, task);
  }
  RunResult go(const RunSpec& s, bigram::Task& task) {
    bigram::Model model(3);
    return run(model, task, fit, config, s);
  }
  std::string message(const RunSpec& s, bigram::Task& task) {
    try {
      go(s, task);
    } catch (const Error& error) {
      return error.what();
    }
    ADD_FAILURE() << "nothing was thrown";
    return "";
  }
  // A sample hook that sends a signal at one step.
  static std::function<std::string(int64_t)> signal_at(int64_t step, int signal) {
    return [=](int64_t now) {
      if (now == step) raise(signal);
      return "sample of " + std::to_string(now);
    };
  }
  void expect_same_end(const std::string& a, const std::string& b) {
    for (const char* file : {"model.safetensors", "optimizer.safetensors"}) {
      EXPECT_EQ(read_file(root / a / "checkpoints/step-12" / file), read_file(root / b / "checkpoints/step-12" / file))
          << file;
    }
    auto left = read_metrics(root / a / "metrics.jsonl"), right = read_metrics(root / b / "metrics.jsonl");
    ASSERT_EQ(left.size(), right.size());
    for (std::size_t i = 0; i < left.size(); ++i) {
      for (const char* key : {"step", "loss", "grad_norm", "lr", "tokens", "valid_loss"}) {
        EXPECT_EQ(left[i].value(key, -1.0), right[i].value(key, -1.0)) << key << " of line " << i + 1;
      }
    }
  }
};

TEST_F(Run, WritesEveryFileOfTheFolder) {
  RunSpec s = spec("a");
  s.sample = [](int64_t step) { return "written at " + std::to_string(step); };
  RunResult result = go(s);
  EXPECT_EQ(result.fit.steps, 12);
  EXPECT_EQ(result.checkpoint, root / "a/checkpoints/step-12");
  EXPECT_EQ(read_file(root / "a/config.toml"), s.config_toml);
  auto lines = read_metrics(root / "a/metrics.jsonl");
  EXPECT_EQ(lines.size(), 14u) << "12 steps, 2 evaluations";
  EXPECT_TRUE(lines[0].contains("mfu") && lines[0].contains("tokens_per_second"));
  EXPECT_FALSE(fs::is_empty(root / "a/tb"));
  EXPECT_EQ(read_samples(root / "a/samples.txt").back().text, "written at 12\n");
  std::string report = read_file(root / "a/report.html");
  EXPECT_THAT(report, HasSubstr("written at 12"));
  EXPECT_THAT(report, HasSubstr("12 of 12"));
}

TEST_F(Run, AStopSignalSavesAndTheResumedRunEqualsAnUninterruptedOne) {
  go(spec("whole"));
  for (int signal : {SIGINT, SIGTERM}) {
    std::string name = "parts" + std::to_string(signal);
    RunSpec s = spec(name);
    config.sample_every = 1;
    s.sample = signal_at(5, signal);
    EXPECT_THROW(go(s), Interrupted);
    EXPECT_EQ(latest_checkpoint(checkpoints_of(s.folder))->step, 5);
    EXPECT_TRUE(fs::exists(s.folder / "report.html"));
    go(spec(name, true));
    expect_same_end("whole", name);
  }
}

TEST_F(Run, ResumingFromAnEarlierCheckpointRepeatsTheRest) {
  config.keep_last = 10;
  go(spec("whole"));
  go(spec("again"));
  RunSpec s = spec("again", true);
  s.from_step = 4;
  go(s);
  expect_same_end("whole", "again");
  s.from_step = 5;
  EXPECT_THROW(go(s), InputError);
}

TEST_F(Run, ResumeWithoutACheckpointStartsAtTheBeginning) {
  go(spec("whole"));
  RunSpec s = spec("fresh", true);
  go(s);
  expect_same_end("whole", "fresh");
}

TEST_F(Run, AFolderThatHoldsARunIsNotOverwritten) {
  go(spec("a"));
  bigram::Task task;
  EXPECT_THAT(message(spec("a"), task), HasSubstr("--resume"));
}

TEST_F(Run, OldCheckpointsGoButTheNewestAndTheMultiples) {
  config.checkpoint_every = 2;
  config.keep_last = 2;
  config.keep_every = 6;
  go(spec("a"));
  std::vector<int64_t> steps;
  for (const Checkpoint& c : list_checkpoints(root / "a/checkpoints")) steps.push_back(c.step);
  EXPECT_THAT(steps, testing::ElementsAre(6, 10, 12));
}

TEST_F(Run, ADamagedCheckpointIsNamedAndAnEarlierOneServes) {
  config.keep_last = 10;
  go(spec("whole"));
  go(spec("a"));
  fs::path file = root / "a/checkpoints/step-12/optimizer.safetensors";
  {
    std::fstream f(file, std::ios::in | std::ios::out | std::ios::binary);
    f.seekp(-3, std::ios::end);
    f.put('\x55');
  }
  bigram::Task task;
  EXPECT_THAT(message(spec("a", true), task), HasSubstr("optimizer.safetensors"));
  RunSpec s = spec("a", true);
  s.from_step = 8;
  go(s);
  expect_same_end("whole", "a");
}

TEST_F(Run, ALossThatIsNotFiniteNamesTheLastCheckpoint) {
  bigram::Task task;
  task.poison = 7;
  std::string text = message(spec("a"), task);
  EXPECT_THAT(text, HasSubstr("step 7"));
  EXPECT_THAT(text, HasSubstr("step-4"));
  EXPECT_THAT(text, HasSubstr("--resume"));
  verify_checkpoint(root / "a/checkpoints/step-4");
}

TEST_F(Run, AVanishedFolderIsAnError) {
  RunSpec s = spec("a");
  config.sample_every = 1;
  s.sample = [&](int64_t step) {
    if (step == 6) fs::rename(root / "a", root / "moved");
    return std::string("x");
  };
  bigram::Task task;
  EXPECT_THAT(message(s, task), HasSubstr((root / "a").string()));
  verify_checkpoint(root / "moved/checkpoints/step-4");
}

TEST_F(Run, AFullDiskIsAnErrorAndTheLastCheckpointStays) {
  RunSpec s = spec("a");
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit before;
  getrlimit(RLIMIT_FSIZE, &before);
  // From the second checkpoint on no file may grow past 100 bytes, which is what a full disk does to a write.
  int saves = 0;
  s.save_model = [&](const fs::path& folder, const Tensors& t) {
    rlimit small = {100, before.rlim_max};
    if (++saves == 2) setrlimit(RLIMIT_FSIZE, &small);
    save_tensors(folder / "model.safetensors", t);
  };
  bigram::Task task;
  std::string text = message(s, task);
  setrlimit(RLIMIT_FSIZE, &before);
  EXPECT_THAT(text, HasSubstr("step-4"));
  verify_checkpoint(root / "a/checkpoints/step-4");
  EXPECT_EQ(list_checkpoints(root / "a/checkpoints").size(), 1u);
  go(spec("whole"));
  go(spec("a", true));
  expect_same_end("whole", "a");
}

TEST_F(Run, SamplesOfStepsThatAreRepeatedAreDropped) {
  fs::create_directories(root);
  fs::path path = root / "samples.txt";
  append_sample(path, {10, "first\n=== step 99 ===\nlast"});
  append_sample(path, {20, "second"});
  ASSERT_EQ(read_samples(path).size(), 2u) << "a line that looks like a header is none";
  drop_samples_after(path, 10);
  auto samples = read_samples(path);
  ASSERT_EQ(samples.size(), 1u);
  EXPECT_EQ(samples[0].text, "first\n === step 99 ===\nlast\n");
}

// A task whose step depends on something that no checkpoint holds.
struct Forgetful : bigram::Task {
  int64_t made = 0;
  void step(models::Model& model, Batch& batch, Stepper& stepper) override {
    nn::Sink sink;
    nn::Loss loss = loss_of(model, dynamic_cast<bigram::Text&>(batch), &sink);
    loss.sum = loss.sum.mul(1.0 + static_cast<double>(++made));
    stepper.backward(loss, sink);
    stepper.step();
  }
};

template <class T>
Start start() {
  return {std::make_unique<bigram::Model>(3), std::make_unique<T>()};
}

TEST_F(Run, TheProofOfResumePassesForAnExactTask) {
  ResumeProof proof = verify_resume(start<bigram::Task>, fit, 5, root / "proof");
  EXPECT_THAT(proof.differences, testing::IsEmpty());
  EXPECT_EQ(proof.tensors, 6) << "two parameters, two moments each";
  EXPECT_FALSE(fs::exists(root / "proof"));
  EXPECT_THROW(verify_resume(start<bigram::Task>, fit, 7, root / "proof"), InputError) << "14 of 12 steps";
}

TEST_F(Run, TheProofOfResumeFailsForATaskThatForgets) {
  ResumeProof proof = verify_resume(start<Forgetful>, fit, 5, root / "proof");
  EXPECT_THAT(proof.differences, testing::Contains(HasSubstr("table.weight")));
}

}  // namespace run_test_file
}  // namespace rattan::train
