#include "rattan/train/progress.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>

namespace rattan::train {
namespace progress_test_file {

using std::chrono::milliseconds;
using std::chrono::seconds;

// A stream into memory.
struct Memory {
  char* data = nullptr;
  std::size_t size = 0;
  std::FILE* file = open_memstream(&data, &size);
  ~Memory() {
    std::fclose(file);
    std::free(data);
  }
  std::string text() {
    std::fflush(file);
    return {data, size};
  }
};

TEST(Progress, LineSaysStepLossSpeedAndTimeLeft) {
  ProgressView view{.step = 120, .steps = 400, .loss = 2.34712, .tokens_per_second = 11890, .eta_seconds = 102};
  EXPECT_EQ(progress_line(view, 0), "step 120/400  loss 2.3471  11.9k tokens/s  ETA 1:42");
  EXPECT_EQ(progress_line(view, 80).front(), '[');
  for (int width : {5, 20, 40, 60, 80, 200}) {
    EXPECT_LT(progress_line(view, width).size(), static_cast<std::size_t>(width)) << "must not wrap";
  }
}

TEST(Progress, DurationsAndCountsAreReadable) {
  EXPECT_EQ(human_duration(7.6), "7.6 s");
  EXPECT_EQ(human_duration(3 * 3600 + 62), "3:01:02");
  EXPECT_EQ(human_duration(3 * 86400 + 4 * 3600), "3 d 4 h");
  EXPECT_EQ(human_count(950), "950");
  EXPECT_EQ(human_count(9996), "10.0k");
  EXPECT_EQ(human_count(3.2e6), "3.20M");
}

TEST(Progress, WithoutATerminalALineEveryFewSeconds) {
  Memory memory;
  Progress progress(100, 0, {.file = memory.file, .every = 5});
  auto start = Progress::Clock::now();
  for (int s = 1; s <= 100; ++s) progress.update(s, 1.0, 1000, start + milliseconds(100 * s));
  progress.finish();
  std::string text = memory.text();
  EXPECT_EQ(text.find('\r'), std::string::npos);
  auto lines = std::count(text.begin(), text.end(), '\n');
  EXPECT_GE(lines, 2);
  EXPECT_LE(lines, 4);
  EXPECT_NE(text.find("step 100/100"), std::string::npos);
}

TEST(Progress, OnATerminalOneLineIsRewritten) {
  Memory memory;
  Progress progress(10, 0, {.file = memory.file, .terminal = true});
  auto start = Progress::Clock::now();
  for (int s = 1; s <= 10; ++s) progress.update(s, 1.0, 1000, start + seconds(s));
  progress.finish();
  std::string text = memory.text();
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1);
  EXPECT_EQ(text.back(), '\n');
  EXPECT_GE(std::count(text.begin(), text.end(), '\r'), 10);
}

TEST(Progress, TheRateAfterAResumeCountsNewStepsAlone) {
  Memory memory;
  Progress progress(1000, 900, {.file = memory.file, .every = 0});
  auto start = Progress::Clock::now();
  progress.update(910, 1.0, 10000, start + seconds(10));
  std::string text = memory.text();
  EXPECT_NE(text.find("tokens/s  ETA 1:30"), std::string::npos) << text;
  EXPECT_TRUE(text.find("1.00k tokens/s") != std::string::npos || text.find("1000 tokens/s") != std::string::npos)
      << text;
}

}  // namespace progress_test_file
}  // namespace rattan::train
