#include "rattan/base/random.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <vector>

namespace rattan::random_test_file {

std::array<uint32_t, 4> philox(uint64_t seed, uint64_t stream, uint64_t counter) {
  std::array<uint32_t, 4> out;
  Rng::philox(seed, stream, counter, out.data());
  return out;
}

// The known answers published with Random123 for Philox 4x32-10: all bits 0, all bits 1, the digits of pi.
TEST(Philox, KnownAnswers) {
  EXPECT_EQ(philox(0, 0, 0), (std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox(~0ull, ~0ull, ~0ull), (std::array<uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox(0x299f31d0a4093822, 0x0370734413198a2e, 0x85a308d3243f6a88),
            (std::array<uint32_t, 4>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Rng, SameSeedSameNumbersOtherSeedOrStreamOthers) {
  Rng a(5, 2), b(5, 2), other_seed(6, 2), other_stream(5, 3);
  int equal_seed = 0, equal_stream = 0;
  for (int i = 0; i < 100; ++i) {
    uint64_t x = a.next_u64();
    EXPECT_EQ(x, b.next_u64());
    equal_seed += x == other_seed.next_u64();
    equal_stream += x == other_stream.next_u64();
  }
  EXPECT_EQ(equal_seed, 0);
  EXPECT_EQ(equal_stream, 0);
}

TEST(Rng, ContinuesFromASavedPosition) {
  Rng rng(11, 1);
  for (int i = 0; i < 7; ++i) rng.normal();
  Rng restored(rng.seed(), rng.stream());
  restored.set_position(rng.position());
  for (int i = 0; i < 20; ++i) EXPECT_EQ(rng.next_u64(), restored.next_u64());
}

// Bounds below are six standard deviations of the mean of `count` draws.
TEST(Rng, UniformIsInItsRangeAndCenterd) {
  Rng rng(1);
  constexpr int count = 100000;
  double sum = 0, lowest = 1, highest = 0;
  for (int i = 0; i < count; ++i) {
    double u = rng.uniform();
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u;
    lowest = std::min(lowest, u);
    highest = std::max(highest, u);
  }
  EXPECT_NEAR(sum / count, 0.5, 6 * std::sqrt(1.0 / 12 / count));
  EXPECT_LT(lowest, 1e-3);
  EXPECT_GT(highest, 1 - 1e-3);
}

TEST(Rng, NormalHasMeanZeroAndVarianceOne) {
  Rng rng(2);
  constexpr int count = 100000;
  double sum = 0, squares = 0;
  for (int i = 0; i < count; ++i) {
    double x = rng.normal();
    ASSERT_TRUE(std::isfinite(x));
    sum += x;
    squares += x * x;
  }
  EXPECT_NEAR(sum / count, 0, 6 / std::sqrt(count));
  EXPECT_NEAR(squares / count, 1, 6 * std::sqrt(2.0 / count));
}

TEST(Rng, BelowIsInRangeAndEven) {
  Rng rng(3);
  EXPECT_EQ(rng.below(1), 0u);
  constexpr int count = 60000, sides = 6;
  std::array<int, sides> seen{};
  for (int i = 0; i < count; ++i) {
    uint64_t x = rng.below(sides);
    ASSERT_LT(x, static_cast<uint64_t>(sides));
    ++seen[x];
  }
  double expected = static_cast<double>(count) / sides;
  for (int n : seen) EXPECT_NEAR(n, expected, 6 * std::sqrt(expected));
  uint64_t large = (uint64_t{1} << 63) + 1;
  for (int i = 0; i < 100; ++i) EXPECT_LT(rng.below(large), large);
}

TEST(Rng, ShuffleIsAPermutationThatTheSeedDecides) {
  std::vector<int> sorted(500);
  std::iota(sorted.begin(), sorted.end(), 0);
  auto shuffled = [&](uint64_t seed) {
    std::vector<int> v = sorted;
    Rng(seed).shuffle(v);
    return v;
  };
  std::vector<int> once = shuffled(4);
  EXPECT_NE(once, sorted);
  EXPECT_EQ(once, shuffled(4));
  EXPECT_NE(once, shuffled(5));
  std::sort(once.begin(), once.end());
  EXPECT_EQ(once, sorted);
  std::vector<int> empty, single{7};
  Rng(0).shuffle(empty);
  Rng(0).shuffle(single);
  EXPECT_EQ(single, std::vector<int>{7});
}

}  // namespace rattan::random_test_file
