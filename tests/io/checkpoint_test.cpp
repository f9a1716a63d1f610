#include "rattan/io/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zlib.h>

#include <chrono>
#include <csignal>
#include <thread>

#include "rattan/base/error.h"
#include "rattan/base/files.h"
#include "rattan/base/random.h"
#include "rattan/io/crc32.h"

namespace rattan::checkpoint_test {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class Checkpoints : public testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::temp_directory_path() / fmt::format("rattan-checkpoints-{}", ::getpid());
    fs::remove_all(root_);
  }
  void TearDown() override { fs::remove_all(root_); }

  // Content that tells which step it belongs to.
  static std::string content(int64_t step, int file) {
    return std::string(20000 + 1000 * static_cast<std::size_t>(file), static_cast<char>('a' + step % 26)) +
           std::to_string(step);
  }
  static void fill(const fs::path& folder, int64_t step) {
    write_file(folder / "model.safetensors", content(step, 0));
    fs::create_directory(folder / "optimizer");
    write_file(folder / "optimizer" / "part-0", content(step, 1));
    write_file(folder / "state.json", content(step, 2));
  }
  Checkpoint write(int64_t step) const {
    return write_checkpoint(root_, step, [step](const fs::path& folder) { fill(folder, step); });
  }
  std::vector<int64_t> steps() const {
    std::vector<int64_t> out;
    for (const Checkpoint& checkpoint : list_checkpoints(root_)) out.push_back(checkpoint.step);
    return out;
  }
  std::vector<std::string> names() const {
    std::vector<std::string> out;
    for (const auto& entry : fs::directory_iterator(root_)) out.push_back(entry.path().filename().string());
    std::sort(out.begin(), out.end());
    return out;
  }
  static std::string damage(const fs::path& folder) {
    try {
      verify_checkpoint(folder);
    } catch (const InputError& error) {
      return error.what();
    }
    return "";
  }
  fs::path root_;
};

TEST_F(Checkpoints, LatestIsTheHighestDoneStep) {
  EXPECT_FALSE(latest_checkpoint(root_).has_value());
  for (int64_t step : {0, 9, 100, 20}) write(step);
  EXPECT_THAT(steps(), ElementsAre(0, 9, 20, 100));
  Checkpoint latest = *latest_checkpoint(root_);
  EXPECT_EQ(latest.step, 100);
  EXPECT_EQ(read_file(latest.folder / "optimizer" / "part-0"), content(100, 1));
  EXPECT_EQ(damage(latest.folder), "");
}

TEST_F(Checkpoints, FoldersOfOtherNamesOrWithoutMarkDoNotCount) {
  write(5);
  for (const char* name : {"step-7", "step-x", "step--1", "step-08", "step-", ".writing-step-9-1"}) {
    fs::create_directories(root_ / name);
  }
  for (const char* name : {"step-x", "step--1", "step-08", "step-", ".writing-step-9-1"}) {
    write_file(root_ / name / "DONE", "{}");
  }
  std::vector<std::string> before = names();
  EXPECT_THAT(steps(), ElementsAre(5));
  EXPECT_EQ(names(), before) << "looking must change nothing";
  EXPECT_THAT(damage(root_ / "step-7"), HasSubstr("not a finished checkpoint"));
}

TEST_F(Checkpoints, LeftoversGoAndNothingElse) {
  write(5);
  fs::create_directories(root_ / ".writing-step-6-123" / "optimizer");
  fs::create_directories(root_ / "step-6");
  fs::create_directories(root_ / "notes");
  remove_leftovers(root_);
  EXPECT_THAT(names(), ElementsAre("notes", "step-5"));
  remove_leftovers(root_ / "absent");
}

TEST_F(Checkpoints, EveryKindOfDamageIsFound) {
  fs::path folder = write(3).folder;
  auto rewritten = [&](const char* name, const std::function<std::string(std::string)>& change) {
    std::string whole = read_file(folder / name);
    write_file(folder / name, change(whole));
    std::string said = damage(folder);
    write_file(folder / name, whole);
    EXPECT_EQ(damage(folder), "");
    return said;
  };
  for (const char* name : {"model.safetensors", "optimizer/part-0", "state.json"}) {
    SCOPED_TRACE(name);
    EXPECT_THAT(rewritten(name, [](const std::string& s) { return s.substr(0, s.size() - 1); }),
                AllOf(HasSubstr(name), HasSubstr("truncated")));
    EXPECT_THAT(rewritten(name, [](const std::string& s) { return s + "x"; }), HasSubstr("too long"));
    EXPECT_THAT(rewritten(name, [](std::string s) { return s[s.size() / 2] ^= 1, s; }),
                AllOf(HasSubstr(name), HasSubstr("is damaged: its CRC-32")));
  }
  EXPECT_THAT(rewritten("DONE", [](const std::string& s) { return s.substr(0, s.size() / 2); }),
              HasSubstr("DONE is damaged"));
  EXPECT_THAT(rewritten("DONE", [](const std::string&) { return "[]"; }), HasSubstr("DONE is damaged"));
  fs::remove(folder / "state.json");
  EXPECT_THAT(damage(folder), AllOf(HasSubstr("state.json"), HasSubstr("missing")));
}

TEST_F(Checkpoints, PruneKeepsTheLastAndTheRegular) {
  for (int64_t step = 0; step <= 10; ++step) write(step);
  prune_checkpoints(root_, 2, 4);
  EXPECT_THAT(steps(), ElementsAre(0, 4, 8, 9, 10));
  prune_checkpoints(root_, 1);
  EXPECT_THAT(names(), ElementsAre("step-10"));
  EXPECT_THROW(prune_checkpoints(root_, 0), InputError);
}

TEST_F(Checkpoints, SameStepIsReplacedAsAWhole) {
  write(3);
  write_checkpoint(root_, 3, [](const fs::path& folder) { write_file(folder / "other", "new"); });
  EXPECT_THAT(names(), ElementsAre("step-3"));
  EXPECT_EQ(damage(root_ / "step-3"), "");
  EXPECT_EQ(read_file(root_ / "step-3" / "other"), "new");
  EXPECT_FALSE(fs::exists(root_ / "step-3" / "state.json"));

  fs::create_directories(root_ / "step-4" / "half");
  write(4);
  EXPECT_EQ(damage(root_ / "step-4"), "");
  EXPECT_FALSE(fs::exists(root_ / "step-4" / "half"));
}

TEST_F(Checkpoints, FailureWhileFillingLeavesTheOthersAlone) {
  write(1);
  for (int64_t step : {1, 2}) {
    for (int files = 0; files <= 3; ++files) {
      SCOPED_TRACE(fmt::format("step {}, {} files", step, files));
      auto broken = [&](const fs::path& folder) {
        for (int i = 0; i < files; ++i) write_file(folder / std::to_string(i), "x");
        fail("cannot write: no space left");
      };
      EXPECT_THROW(write_checkpoint(root_, step, broken), Error);
      EXPECT_THAT(names(), ElementsAre("step-1"));
      EXPECT_EQ(damage(root_ / "step-1"), "");
      EXPECT_EQ(read_file(root_ / "step-1" / "state.json"), content(1, 2));
    }
  }
}

TEST_F(Checkpoints, VanishedFoldersAndFilesInTheWayAreErrors) {
  write(1);
  auto vanish = [&](const fs::path& folder) { fs::remove_all(folder); };
  EXPECT_THROW(write_checkpoint(root_, 2, vanish), Error);
  EXPECT_THAT(steps(), ElementsAre(1));
  auto link = [&](const fs::path& folder) { fs::create_symlink("/", folder / "link"); };
  EXPECT_THROW(write_checkpoint(root_, 2, link), Error);
  write_file(root_ / "file", "x");
  try {
    write_checkpoint(root_ / "file", 1, [](const fs::path&) {});
    ADD_FAILURE() << "wrote below a file";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr((root_ / "file").string()));
  }
  EXPECT_THROW(write(-1), InputError);
}

// A child writes, replaces and prunes without pause and is killed at a random moment, 50 times. Whatever it had
// reported as written must be there, and everything that counts must be whole.
TEST_F(Checkpoints, KillAtAnyMomentLosesNothingThatWasDone) {
  Rng rng(11);
  int64_t reported = -1;
  // How long a write takes here decides which moments are worth a kill: disks differ a hundredfold in how they sync.
  auto begin = std::chrono::steady_clock::now();
  write(0);
  auto one_write = std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - begin);
  for (int round = 0; round < 50; ++round) {
    SCOPED_TRACE(fmt::format("round {}", round));
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      ::close(ends[0]);
      try {
        remove_leftovers(root_);
        std::optional<Checkpoint> last = latest_checkpoint(root_);
        for (int64_t step = last ? last->step : 0;; ++step) {  // the first one replaces the last of the round before
          write(step);
          if (::write(ends[1], &step, sizeof step) != sizeof step) ::_exit(3);
          prune_checkpoints(root_, 2, 10);
        }
      } catch (const std::exception&) {
        ::_exit(2);
      }
    }
    ::close(ends[1]);
    int64_t step = 0;
    // Every fifth round sees at least one write through, so that the steps go on.
    if (round % 5 == 0 && ::read(ends[0], &step, sizeof step) == sizeof step) reported = std::max(reported, step);
    auto delay = std::min<uint64_t>(static_cast<uint64_t>(one_write.count()) * 2, 200000) + 1000;
    std::this_thread::sleep_for(std::chrono::microseconds(rng.below(delay)));
    ::kill(child, SIGKILL);
    int status = 0;
    ::waitpid(child, &status, 0);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the child failed by itself with code " << WEXITSTATUS(status);
    while (::read(ends[0], &step, sizeof step) == sizeof step) reported = std::max(reported, step);
    ::close(ends[0]);

    std::optional<Checkpoint> latest = latest_checkpoint(root_);
    ASSERT_EQ(latest.has_value() || reported < 0, true);
    if (latest) {
      EXPECT_GE(latest->step, reported);
      EXPECT_EQ(read_file(latest->folder / "state.json"), content(latest->step, 2));
    }
    for (const Checkpoint& checkpoint : list_checkpoints(root_)) EXPECT_EQ(damage(checkpoint.folder), "");
  }
  EXPECT_GE(reported, 0) << "the child never got to write anything";
}

TEST(Crc32, IsZlibsForEverySize) {
  std::string text(3 * (std::size_t{8} << 20) + 5, 'x');
  for (std::size_t i = 0; i < text.size(); i += 97) text[i] = static_cast<char>(i);
  for (std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{8} << 20, text.size()}) {
    auto bytes = std::as_bytes(std::span(text.data(), size));
    EXPECT_EQ(crc32_of(bytes), ::crc32_z(0, reinterpret_cast<const Bytef*>(text.data()), size));
  }
}

}  // namespace rattan::checkpoint_test
