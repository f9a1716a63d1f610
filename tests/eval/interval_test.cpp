#include "rattan/eval/study/interval.h"

#include <gtest/gtest.h>

#include <cmath>

#include "rattan/base/error.h"

namespace rattan::study::interval_test {

// The usual printed table, two-sided.
TEST(StudentT, IsThePrintedTable) {
  const struct {
    double confidence;
    int64_t df;
    double t;
  } table[] = {{0.95, 1, 12.7062},  {0.95, 2, 4.30265},  {0.95, 3, 3.18245},  {0.95, 4, 2.77645},   {0.95, 5, 2.57058},
               {0.95, 10, 2.22814}, {0.95, 29, 2.04523}, {0.95, 30, 2.04227}, {0.95, 120, 1.97993}, {0.99, 1, 63.6567},
               {0.99, 2, 9.92484},  {0.9, 1, 6.31375},   {0.9, 7, 1.89458},   {0.5, 1, 1.0}};
  // Half a unit of the table's last digit.
  for (const auto& row : table)
    EXPECT_NEAR(student_t(row.confidence, row.df) / row.t, 1, 5e-6) << row.confidence << ", " << row.df;
  EXPECT_NEAR(student_t(0.95, 1000000), 1.959964, 1e-5) << "many degrees of freedom: the normal distribution";
  EXPECT_THROW(student_t(0.95, 0), InputError);
  EXPECT_THROW(student_t(1, 3), InputError);
}

TEST(Interval, IsTheOneComputedByHand) {
  // Mean 2, s = 1: half = 4.302653 / sqrt(3) = 2.484138.
  const Interval three = interval({1, 2, 3}, 0.95);
  EXPECT_EQ(three.n, 3);
  EXPECT_DOUBLE_EQ(three.mean, 2);
  EXPECT_NEAR(three.low, 2 - 2.484138, 1e-6);
  EXPECT_NEAR(three.high, 2 + 2.484138, 1e-6);
  // Mean 3.5, s = sqrt(0.5): half = 12.706205 x 0.5 = 6.353102.
  EXPECT_NEAR(interval({3, 4}, 0.95).half(), 6.353102, 1e-6);
  EXPECT_NEAR(interval({3, 4}, 0.9).half(), 6.313752 / 2, 1e-6);
  const Interval equal = interval({0.5, 0.5, 0.5}, 0.95);
  EXPECT_EQ(equal.low, 0.5);
  EXPECT_EQ(equal.high, 0.5);
}

TEST(Interval, OneValueHasNoneAndNoValueIsNothing) {
  const Interval one = interval({7}, 0.95);
  EXPECT_EQ(one.n, 1);
  EXPECT_EQ(one.low, 7);
  EXPECT_EQ(one.high, 7);
  EXPECT_EQ(interval({}, 0.95).n, 0);
}

}  // namespace rattan::study::interval_test
