// What reading a few more tokens overwrites in a row, so that they can be taken back.
#pragma once
#include <vector>

#include "rattan/infer/engine/state_store.h"

namespace rattan::infer {

class Undo {
 public:
  // Before `more` tokens are read into a row that holds `held`.
  Undo(const StateStore& store, int64_t row, int64_t held, int64_t more);

  // After they were: leaves a state of at most `wanted` >= held tokens, and says of how many. It is `wanted` where the
  // state of a longer text contains it, else `held`.
  int64_t back_to(int64_t wanted) const;

 private:
  const StateStore& store_;
  int64_t row_, held_;
  std::vector<at::Tensor> places_, saved_;  // by group: entries of a ring (int64) and what stood there; fixed fields
};

}  // namespace rattan::infer
