#include "rattan/base/parallel.h"

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <string>
#include <vector>

namespace rattan::parallel_test_file {

class ParallelFor : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override { set_threads(GetParam()); }
  void TearDown() override { set_threads(0); }
};

TEST_P(ParallelFor, RunsEveryTaskOnce) {
  for (int64_t tasks : {0, 1, 2, 3, 17, 1000}) {
    std::vector<std::atomic<int>> runs(static_cast<std::size_t>(tasks) + 1);
    parallel_for(tasks, [&](int64_t i) { ++runs[static_cast<std::size_t>(i)]; });
    for (int64_t i = 0; i < tasks; ++i) EXPECT_EQ(runs[static_cast<std::size_t>(i)], 1) << i << " of " << tasks;
    EXPECT_EQ(runs[static_cast<std::size_t>(tasks)], 0) << "a task beyond the last ran";
  }
}

TEST_P(ParallelFor, RethrowsOnTheCallingThreadAndStaysUsable) {
  for (int64_t tasks : {1, 64}) {
    std::string caught;
    try {
      parallel_for(tasks, [&](int64_t i) {
        if (i == tasks / 2) throw std::runtime_error("from the body");
      });
    } catch (const std::runtime_error& error) {
      caught = error.what();
    }
    EXPECT_EQ(caught, "from the body");
    std::atomic<int64_t> sum{0};
    parallel_for(tasks, [&](int64_t i) { sum += i; });
    EXPECT_EQ(sum, tasks * (tasks - 1) / 2);
  }
}

TEST_P(ParallelFor, NestedLoopsRunEveryPairOnce) {
  constexpr int64_t outer = 8, inner = 9;
  std::vector<std::atomic<int>> runs(outer * inner);
  parallel_for(outer, [&](int64_t i) {
    parallel_for(inner, [&](int64_t j) { ++runs[static_cast<std::size_t>(i * inner + j)]; });
  });
  for (auto& count : runs) EXPECT_EQ(count, 1);
}

TEST_P(ParallelFor, WritesOfTheBodiesAreSeenAfterTheLoop) {
  std::vector<int64_t> squares(4096);
  for (int round = 0; round < 50; ++round) {
    parallel_for(4096, [&](int64_t i) { squares[static_cast<std::size_t>(i)] = i * i + round; });
    int64_t sum = 0;
    for (int64_t i = 0; i < 4096; ++i) sum += squares[static_cast<std::size_t>(i)] - i * i;
    ASSERT_EQ(sum, 4096 * round);
  }
}

INSTANTIATE_TEST_SUITE_P(Threads, ParallelFor, ::testing::Values(1, 2, 4));

TEST(Parallel, ThreadsIsWhatWasSetAndAtLeastOneByDefault) {
  set_threads(3);
  EXPECT_EQ(threads(), 3);
  set_threads(0);
  EXPECT_GE(threads(), 1);
}

TEST(Parallel, AnInstalledRuntimeGetsTheLoops) {
  static int loops = 0;
  loops = 0;
  set_parallel_runtime([](int64_t tasks, void (*body)(void*, int64_t), void* context) {
    ++loops;
    for (int64_t i = tasks - 1; i >= 0; --i) body(context, i);
  });
  std::vector<int64_t> order;
  parallel_for(3, [&](int64_t i) { order.push_back(i); });
  set_parallel_runtime(nullptr);
  EXPECT_EQ(loops, 1);
  EXPECT_EQ(order, (std::vector<int64_t>{2, 1, 0}));
  parallel_for(3, [](int64_t) {});
  EXPECT_EQ(loops, 1) << "the built-in pool is back after the runtime was taken out";
}

TEST(Parallel, CeilDiv) {
  EXPECT_EQ(ceil_div(0, 4), 0);
  EXPECT_EQ(ceil_div(1, 4), 1);
  EXPECT_EQ(ceil_div(4, 4), 1);
  EXPECT_EQ(ceil_div(5, 4), 2);
}

}  // namespace rattan::parallel_test_file
