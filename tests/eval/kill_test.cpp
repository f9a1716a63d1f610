// A study that is killed or interrupted anywhere goes on to the same reports, bit for bit.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <thread>

#include "tests/eval/study_fixture.h"

namespace rattan::study::kill_test {

namespace fs = std::filesystem;

constexpr const char* kArguments = "RATTAN_STUDY_TEST_ARGUMENTS";

// The process that gets the signal: this program again, running one command line out of the environment.
TEST(StudyVictim, DISABLED_OneCommandLine) {
  const char* text = std::getenv(kArguments);
  ASSERT_NE(text, nullptr);
  std::vector<std::string> words;
  for (std::string rest = text; !rest.empty();) {
    const std::size_t end = std::min(rest.find('\n'), rest.size());
    words.push_back(rest.substr(0, end));
    rest.erase(0, end + 1);
  }
  std::_Exit(tiny_run::rattan(words));
}

class StudyKill : public StudyTest {
 protected:
  // Runs the study in a process of its own, sends `signal` as soon as `mark` exists, and gives the exit code, or
  // -signal. Checkpoints take a while, so that there is something to interrupt.
  int run_until(const fs::path& mark, int signal) {
    const std::string joined = fmt::format("study\n{}\n--out\n{}\n--quiet\n", study_file(), path("killed"));
    const std::string log = path("log");
    const pid_t child = fork();
    if (child == 0) {
      setenv(kArguments, joined.c_str(), 1);
      setenv("RATTAN_TEST_SLOW_CHECKPOINT_MS", "10", 1);
      const int out = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
      dup2(out, STDOUT_FILENO);
      dup2(out, STDERR_FILENO);
      execl("/proc/self/exe", "victim", "--gtest_filter=StudyVictim.DISABLED_OneCommandLine",
            "--gtest_also_run_disabled_tests", nullptr);
      std::_Exit(127);
    }
    int status = 0;
    while (waitpid(child, &status, WNOHANG) == 0) {
      std::error_code none;
      if (signal != 0 && fs::exists(mark, none)) {
        kill(child, signal);
        signal = 0;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
};

TEST_F(StudyKill, KilledBetweenAndInsideRunsItEndsWithTheSameBits) {
  ASSERT_EQ(study("whole").code, 0);
  const fs::path runs = folder / "killed/runs";
  // Inside a run that tries a rate, inside one that counts, and just after one.
  for (const char* mark : {"attention/lr-0.01/checkpoints/step-3", "attention/seed-2/checkpoints/step-6",
                           "rat/lr-0.003/result.json", "rat/seed-2/checkpoints/step-3"}) {
    EXPECT_EQ(run_until(runs / mark, SIGKILL), -SIGKILL) << mark << "\n" << read_file(path("log"));
  }
  EXPECT_FALSE(fs::exists(folder / "killed/study.json")) << "no report before the end";
  EXPECT_EQ(run_until("", 0), 0) << read_file(path("log"));
  EXPECT_EQ(reports("killed"), reports("whole"));
}

TEST_F(StudyKill, InterruptedItSavesAndSaysHowToGoOn) {
  ASSERT_EQ(study("whole").code, 0);
  EXPECT_EQ(run_until(folder / "killed/runs/rat/seed-1/checkpoints/step-3", SIGINT), 130);
  EXPECT_THAT(read_file(path("log")), testing::HasSubstr("The same command goes on from there."));
  EXPECT_EQ(run_until("", 0), 0);
  EXPECT_EQ(reports("killed"), reports("whole"));
}

}  // namespace rattan::study::kill_test
