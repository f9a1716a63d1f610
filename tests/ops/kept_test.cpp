// What a record keeps is made once and handed out once, in order.
#include "rattan/ops/kept.h"

#include <ATen/ops/full.h>
#include <gtest/gtest.h>

namespace rattan::ops::kept_test_file {

struct Maker {
  int made = 0;
  at::Tensor operator()() {
    return Kept::results([this]() -> std::vector<at::Tensor> { return {at::full({}, ++made), at::Tensor()}; })[0];
  }
};

TEST(Kept, WithoutARecordEveryCallMakes) {
  Maker make;
  make(), make();
  EXPECT_EQ(make.made, 2);
}

TEST(Kept, TheSecondPassTakesWhatTheFirstMade) {
  Maker make;
  Kept record;
  {
    const Kept::Scope scope(&record);
    make(), make();
    const Kept::Scope closed(nullptr);
    make();
  }
  EXPECT_EQ(make.made, 3);
  record.replay();
  const Kept::Scope scope(&record);
  const at::Tensor first = make(), second = make();
  EXPECT_EQ(make.made, 3) << "nothing was made again";
  EXPECT_EQ(first.item<int>(), 1);
  EXPECT_EQ(second.item<int>(), 2);
  EXPECT_EQ(first.use_count(), 1) << "the record has let go of it";
  EXPECT_EQ(make().item<int>(), 4) << "a third pass makes its own";
}

}  // namespace rattan::ops::kept_test_file
