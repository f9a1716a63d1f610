#include "rattan/train/schedule.h"

#include <gtest/gtest.h>

#include "rattan/base/error.h"

namespace rattan::train {

TEST(Schedule, WarmsUpLinearlyAndReachesThePeakAtTheEndOfIt) {
  ScheduleConfig config{.schedule = "cosine", .lr = 1.0, .min_lr = 0.0, .warmup = 10};
  EXPECT_DOUBLE_EQ(learning_rate(config, 1, 100), 0.1);
  EXPECT_DOUBLE_EQ(learning_rate(config, 5, 100), 0.5);
  EXPECT_DOUBLE_EQ(learning_rate(config, 10, 100), 1.0);
  config.warmup = 0.25;
  EXPECT_EQ(warmup_steps(config, 100), 25);
  EXPECT_DOUBLE_EQ(learning_rate(config, 5, 100), 0.2);
}

TEST(Schedule, CosineFallsToTheFloorThroughTheMiddle) {
  ScheduleConfig config{.schedule = "cosine", .lr = 1.0, .min_lr = 0.2, .warmup = 20};
  EXPECT_NEAR(learning_rate(config, 60, 100), 0.6, 1e-12);
  EXPECT_NEAR(learning_rate(config, 100, 100), 0.2, 1e-12);
  for (int64_t s = 21; s <= 100; ++s) EXPECT_LT(learning_rate(config, s, 100), learning_rate(config, s - 1, 100));
}

TEST(Schedule, WsdHoldsThenFallsToTheFloor) {
  ScheduleConfig config{.schedule = "wsd", .lr = 1.0, .min_lr = 0.1, .warmup = 10, .decay = 0.2};
  for (int64_t s = 10; s <= 80; ++s) EXPECT_EQ(learning_rate(config, s, 100), 1.0) << s;
  EXPECT_NEAR(learning_rate(config, 85, 100), 0.1 + 0.9 * 0.5, 1e-12);  // a quarter of the way: 1 - sqrt(1/4)
  EXPECT_NEAR(learning_rate(config, 100, 100), 0.1, 1e-12);
}

TEST(Schedule, EdgesDoNotDivideByZero) {
  for (const char* kind : {"cosine", "wsd", "constant"}) {
    for (double warmup : {0.0, 0.05, 1.0, 1e9}) {
      for (int64_t steps : {1, 2, 3}) {
        ScheduleConfig config{.schedule = kind, .lr = 1.0, .min_lr = 0.5, .warmup = warmup, .decay = 1.0};
        for (int64_t s = 1; s <= steps; ++s) {
          double lr = learning_rate(config, s, steps);
          EXPECT_TRUE(lr > 0 && lr <= 1.0) << kind << " warmup " << warmup << " step " << s << "/" << steps;
        }
      }
    }
  }
}

TEST(Schedule, RefusesWhatCannotBe) {
  ScheduleConfig config;
  EXPECT_THROW(learning_rate(config, 0, 10), InputError);
  EXPECT_THROW(learning_rate(config, 1, 0), InputError);
  config.min_lr = 1;
  EXPECT_THROW(learning_rate(config, 1, 10), InputError);
}

}  // namespace rattan::train
