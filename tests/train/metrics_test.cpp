#include "rattan/train/metrics.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <limits>

#include "rattan/base/error.h"
#include "rattan/base/files.h"

namespace rattan::train {
namespace metrics_test_file {

namespace fs = std::filesystem;

struct Metrics : testing::Test {
  fs::path folder = fs::path(testing::TempDir()) / ("rattan-metrics-" + std::to_string(getpid()));
  fs::path path = folder / "metrics.jsonl";
  void SetUp() override {
    fs::remove_all(folder);
    fs::create_directories(folder);
  }
  void TearDown() override { fs::remove_all(folder); }
  void write(int64_t steps) {
    MetricsLog log(path, 0);
    for (int64_t s = 1; s <= steps; ++s) log.append({{"step", s}, {"loss", 0.1 * static_cast<double>(s)}});
  }
};

TEST_F(Metrics, LinesAreOnDiskAsSoonAsTheyAreAppended) {
  MetricsLog log(path, 0);
  log.append({{"step", 1}, {"loss", 0.1}});
  EXPECT_EQ(read_file(path), "{\"loss\":0.1,\"step\":1}\n");
}

TEST_F(Metrics, ResumingDropsWhatCameAfterTheCheckpointAndAHalfWrittenLine) {
  write(10);
  std::ofstream(path, std::ios::app) << "{\"step\": 11, \"lo";
  { MetricsLog(path, 7).append({{"step", 8}, {"loss", 42.0}}); }
  auto lines = read_metrics(path);
  ASSERT_EQ(lines.size(), 8u);
  for (std::size_t i = 0; i < 8; ++i) EXPECT_EQ(lines[i]["step"], i + 1);
  EXPECT_EQ(lines[6]["loss"].get<double>(), 0.1 * 7);
  EXPECT_EQ(lines[7]["loss"], 42.0);
}

TEST_F(Metrics, ANewRunStartsEmpty) {
  write(3);
  MetricsLog log(path, 0);
  EXPECT_TRUE(read_metrics(path).empty());
}

TEST_F(Metrics, ValuesThatAreNotFiniteBecomeNull) {
  MetricsLog log(path, 0);
  log.append({{"step", 1}, {"loss", std::numeric_limits<double>::quiet_NaN()}});
  EXPECT_TRUE(read_metrics(path)[0]["loss"].is_null());
}

TEST_F(Metrics, ADamagedLineIsNamed) {
  std::ofstream(path) << "{\"step\":1}\nnot json\n{\"step\":3}\n";
  try {
    MetricsLog log(path, 3);
    FAIL() << "a damaged line was accepted";
  } catch (const InputError& error) {
    EXPECT_NE(std::string(error.what()).find("metrics.jsonl:2"), std::string::npos) << error.what();
  }
}

TEST_F(Metrics, AFolderThatIsNotThereIsAnError) { EXPECT_THROW(MetricsLog(folder / "no/metrics.jsonl", 0), Error); }

}  // namespace metrics_test_file
}  // namespace rattan::train
