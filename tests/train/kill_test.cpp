// SIGKILL at any instant loses at most the steps since the last finished checkpoint.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <thread>

#include "rattan/io/checkpoint.h"
#include "rattan/train/metrics.h"
#include "tiny_run.h"

namespace rattan {
namespace kill_test_file {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr const char* kArguments = "RATTAN_KILL_TEST_ARGUMENTS";
constexpr const char* kSlow = "RATTAN_TEST_SLOW_CHECKPOINT_MS";
constexpr int kSteps = 1500, kKills = 50;

// The process that gets killed: this program again, running one command line out of the environment.
TEST(KillVictim, DISABLED_OneCommandLine) {
  const char* text = std::getenv(kArguments);
  ASSERT_NE(text, nullptr);
  std::vector<std::string> words;
  for (std::string rest = text; !rest.empty();) {
    std::size_t end = std::min(rest.find('\n'), rest.size());
    words.push_back(rest.substr(0, end));
    rest.erase(0, end + 1);
  }
  std::_Exit(tiny_run::rattan(words));
}

class Victim {
 public:
  // What the process says goes to `log`.
  Victim(const std::vector<std::string>& words, int pause_ms, const fs::path& log) {
    std::string joined;
    for (const std::string& word : words) joined += word + "\n";
    pid_ = fork();
    if (pid_ != 0) return;
    setenv(kArguments, joined.c_str(), 1);
    if (pause_ms > 0) setenv(kSlow, std::to_string(pause_ms).c_str(), 1);
    int out = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
    dup2(out, STDOUT_FILENO);
    dup2(out, STDERR_FILENO);
    execl("/proc/self/exe", "victim", "--gtest_filter=KillVictim.DISABLED_OneCommandLine",
          "--gtest_also_run_disabled_tests", nullptr);
    std::_Exit(127);
  }
  bool running() {
    if (!ended_ && waitpid(pid_, &status_, WNOHANG) == pid_) ended_ = true;
    return !ended_;
  }
  void kill_now() {
    kill(pid_, SIGKILL);
    if (!ended_) waitpid(pid_, &status_, 0);
    ended_ = true;
  }
  int wait() {
    if (!ended_) waitpid(pid_, &status_, 0);
    ended_ = true;
    return WIFEXITED(status_) ? WEXITSTATUS(status_) : -1;
  }
  bool was_killed() const { return WIFSIGNALED(status_) && WTERMSIG(status_) == SIGKILL; }

 private:
  pid_t pid_;
  int status_ = 0;
  bool ended_ = false;
};

// A checkpoint that was begun and is not DONE.
bool unfinished_write(const fs::path& checkpoints) {
  std::error_code none;
  for (fs::directory_iterator at(checkpoints, none), end; !none && at != end; at.increment(none)) {
    std::string name = at->path().filename().string();
    if (name.starts_with(".writing-")) return true;
    if (name.starts_with("step-") && !fs::exists(at->path() / "DONE", none)) return true;
  }
  return false;
}

void sleep_ms(uint64_t ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }

struct KillTest : testing::Test {
  fs::path root = fs::path(testing::TempDir()) / ("rattan-kill-" + std::to_string(getpid()));
  fs::path config, folder = root / "killed", checkpoints = folder / "checkpoints", log = root / "log";

  void SetUp() override {
    fs::remove_all(root);
    config = tiny_run::prepare(root);
  }
  void TearDown() override { fs::remove_all(root); }

  std::vector<std::string> command(const fs::path& out, bool resume) {
    std::vector<std::string> words = {
        "train", config.string(), "train.steps=" + std::to_string(kSteps), "run.checkpoint_every=3", "--quiet",
        "--out", out.string()};
    if (resume) words.push_back("--resume");
    return words;
  }
  int64_t newest() {
    auto latest = latest_checkpoint(checkpoints);
    return latest ? latest->step : 0;
  }
  // Runs until `ready` says so, waits a little longer, and kills. False if the run ended by itself.
  template <class Ready>
  bool run_and_kill(int pause_ms, uint64_t extra_ms, Ready ready) {
    Victim victim(command(folder, true), pause_ms, log);
    auto begin = Clock::now();
    while (victim.running() && !ready()) {
      if (Clock::now() - begin > std::chrono::seconds(60)) break;
      sleep_ms(1);
    }
    sleep_ms(extra_ms);
    if (!victim.running()) return false;
    victim.kill_now();
    return victim.was_killed();
  }
};

TEST_F(KillTest, FiftyKillsAndTheWeightsAreThoseOfAnUninterruptedRun) {
  ASSERT_EQ(Victim(command(root / "whole", false), 0, log).wait(), 0) << read_file(log);
  Rng rng(2024);
  int kills = 0, inside = 0;
  for (int attempt = 0; kills < kKills && attempt < 3 * kKills; ++attempt) {
    int64_t before = newest();
    bool slow = inside < kKills / 2 && attempt % 2 == 0;
    // A slow write pauses 20 ms about its three files; the kill falls anywhere into it.
    bool killed = slow ? run_and_kill(20, rng.below(70), [&] { return unfinished_write(checkpoints); })
                       : run_and_kill(0, rng.below(60), [&] { return newest() > before; });
    ASSERT_TRUE(killed) << "the run ended by itself after " << kills << " kills at step " << newest()
                        << "; give it more steps, or see its log:\n"
                        << read_file(log);
    bool in_write = unfinished_write(checkpoints);
    if (slow && !in_write) continue;  // the write was over just before: not one of the kills that count
    inside += in_write;
    ++kills;
    ASSERT_GE(newest(), before) << "a finished checkpoint was lost";
    if (auto latest = latest_checkpoint(checkpoints)) verify_checkpoint(latest->folder);
  }
  EXPECT_EQ(kills, kKills);
  EXPECT_GE(inside, kKills / 2);
  ASSERT_EQ(Victim(command(folder, true), 0, log).wait(), 0) << read_file(log);
  std::string last = "checkpoints/step-" + std::to_string(kSteps);
  for (const char* file : {"model.safetensors", "optimizer.safetensors"}) {
    EXPECT_EQ(read_file(root / "whole" / last / file), read_file(folder / last / file)) << file;
  }
  auto whole = train::read_metrics(root / "whole/metrics.jsonl"), parts = train::read_metrics(folder / "metrics.jsonl");
  ASSERT_EQ(whole.size(), parts.size());
  for (std::size_t i = 0; i < whole.size(); ++i) {
    for (const char* key : {"step", "loss", "grad_norm", "lr", "tokens"}) {
      ASSERT_EQ(whole[i].value(key, -1.0), parts[i].value(key, -1.0)) << key << " of line " << i + 1;
    }
  }
}

}  // namespace kill_test_file
}  // namespace rattan
