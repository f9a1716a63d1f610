// Runs the command line in this process, in a folder of its own, and keeps what it said.
#pragma once
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "rattan/base/files.h"
#include "rattan/cli/run.h"

namespace rattan::cli {

struct Outcome {
  int code = -1;
  std::string out, err;
  // The one document on stdout.
  nlohmann::json json() const {
    nlohmann::json document = nlohmann::json::parse(out, nullptr, false);
    EXPECT_FALSE(document.is_discarded()) << "stdout is not one JSON document:\n" << out;
    return document;
  }
};

class CliTest : public testing::Test {
 protected:
  CliTest()
      : folder(std::filesystem::path(testing::TempDir()) /
               (std::string("rattan_cli_") + testing::UnitTest::GetInstance()->current_test_info()->name())) {
    std::filesystem::remove_all(folder);
    std::filesystem::create_directories(folder);
  }
  ~CliTest() override { std::filesystem::remove_all(folder); }

  static Outcome rattan(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "rattan");
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    testing::internal::CaptureStdout();
    testing::internal::CaptureStderr();
    Outcome outcome;
    outcome.code = run(static_cast<int>(argv.size()), argv.data());
    outcome.out = testing::internal::GetCapturedStdout();
    outcome.err = testing::internal::GetCapturedStderr();
    return outcome;
  }

  std::string path(const std::string& name) const { return (folder / name).string(); }
  std::string file(const std::string& name, const std::string& text) const {
    write_file(folder / name, text);
    return path(name);
  }

  // A configuration and a model folder of a very small hybrid over bytes.
  std::string config(const std::string& more = "") const {
    return file("tiny.toml", R"([model]
vocab_size = 257
d_model = 32
n_layers = 2
pattern = ["rat", "local"]
init_std = 0.3
context = 64
[mixers.rat]
type = "rat"
n_heads = 4
n_groups = 2
chunk = 4
[mixers.local]
type = "swa"
n_heads = 4
window = 8
)" + more);
  }
  std::string model() const {
    const Outcome made = rattan({"init", config(), "--out", path("m"), "--seed", "1"});
    EXPECT_EQ(made.code, 0) << made.err;
    return path("m");
  }

  std::filesystem::path folder;
};

}  // namespace rattan::cli
