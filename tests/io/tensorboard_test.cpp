#include "rattan/io/tensorboard.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "rattan/base/error.h"
#include "rattan/base/files.h"
#include "rattan/io/crc32c.h"

namespace rattan {
namespace tensorboard_test_file {

namespace fs = std::filesystem;

struct TemporaryFolder {
  fs::path path = fs::path(testing::TempDir()) / ("rattan-tensorboard-" + std::to_string(getpid()));
  TemporaryFolder() { fs::remove_all(path); }
  ~TemporaryFolder() { fs::remove_all(path); }
};

// The interpreter that has the `tensorboard` package: RATTAN_PYTHON, else the tree's .venv, else python3.
std::string python() {
  if (const char* given = std::getenv("RATTAN_PYTHON")) return given;
  fs::path venv = fs::path(RATTAN_TEST_DATA).parent_path() / ".venv/bin/python";
  return fs::exists(venv) ? venv.string() : "python3";
}

TEST(Crc32c, MatchesThePublishedVectors) {
  // RFC 3720, appendix B.4, and the customary check value of "123456789".
  EXPECT_EQ(crc32c("123456789", 9), 0xE3069283u);
  EXPECT_EQ(crc32c(std::string(32, '\0').data(), 32), 0x8A9136AAu);
  EXPECT_EQ(crc32c(std::string(32, '\xFF').data(), 32), 0x62A8AB43u);
  EXPECT_EQ(crc32c("56789", 5, crc32c("1234", 4)), 0xE3069283u);
}

TEST(Tensorboard, FirstRecordIsTheFileVersion) {
  TemporaryFolder folder;
  TensorboardWriter writer(folder.path);
  std::string bytes = read_file(writer.path());
  ASSERT_GT(bytes.size(), 12u);
  EXPECT_EQ(static_cast<uint8_t>(bytes[0]) + 16u, bytes.size()) << "length, its checksum, payload, its checksum";
  EXPECT_NE(bytes.find("brain.Event:2"), std::string::npos);
}

TEST(Tensorboard, TwoWritersOfOneFolderTakeTwoFiles) {
  TemporaryFolder folder;
  TensorboardWriter first(folder.path), second(folder.path);
  EXPECT_NE(first.path(), second.path());
}

TEST(Tensorboard, AFolderThatCannotBeMadeIsAnError) { EXPECT_THROW(TensorboardWriter("/proc/nowhere/tb"), Error); }

TEST(Tensorboard, ThePythonPackageReadsWhatWasWritten) {
  TemporaryFolder folder;
  {
    TensorboardWriter writer(folder.path);
    writer.scalar("train/loss", 1, 7.625);
    writer.scalar("train/loss", 2, 6.5);
    writer.scalar("train/loss", 3, 5.5);  // an interrupted run wrote this after its last checkpoint at step 2
    writer.scalar("train/lr", 300, 8e-4);
    writer.flush();
  }
  {
    TensorboardWriter writer(folder.path, 2);
    writer.scalar("train/loss", 3, 5.25);
    writer.scalar("validation/bits_per_byte", int64_t{5} << 32, 1.75);
    writer.flush();
  }
  fs::path script = fs::path(RATTAN_TEST_DATA) / "python/read_tensorboard.py";
  fs::path out = folder.path / "scalars.json";
  std::string command = python() + " " + script.string() + " " + folder.path.string() + " > " + out.string();
  int status = std::system(command.c_str());
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == 77) {
    GTEST_SKIP() << "the Python package `tensorboard` is not installed (python/requirements-test.txt lists it)";
  }
  ASSERT_EQ(WEXITSTATUS(status), 0) << command;
  auto scalars = nlohmann::json::parse(read_file(out));
  auto expected = nlohmann::json::parse(R"({
    "train/loss": [[1, 7.625], [2, 6.5], [3, 5.25]],
    "validation/bits_per_byte": [[21474836480, 1.75]]})");
  EXPECT_EQ(scalars["train/loss"], expected["train/loss"]);
  EXPECT_EQ(scalars["validation/bits_per_byte"], expected["validation/bits_per_byte"]);
}

}  // namespace tensorboard_test_file
}  // namespace rattan
