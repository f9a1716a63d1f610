// The one argument of a forward or extend beside the input and the state. A new need is a new field here,
// never a new parameter.
#pragma once
#include <map>
#include <string>

#include "rattan/base/random.h"
#include "rattan/nn/choices.h"
#include "rattan/nn/layout.h"
#include "rattan/nn/sink.h"
#include "rattan/nn/state.h"
#include "rattan/ops/ops.h"

namespace rattan::nn {

class AttentionCore;
struct Stream;

enum class Mode : int8_t {
  eval,
  train,
  replay,  // recomputation of a training forward: choices are replayed, sinks and buffers not counted again
};

// A second input (encoder output, memory) with its own layout and final state.
struct Source {
  at::Tensor x;
  const Layout* layout = nullptr;
  State final;
};

// Settings that may change from call to call without changing what the state holds.
struct Knobs {
  std::map<std::string, double> values;
  double get(const std::string& name, double otherwise) const {
    auto place = values.find(name);
    return place == values.end() ? otherwise : place->second;
  }
};

struct Call {
  // What is read.
  const Layout& layout;
  Mode mode = Mode::eval;
  int slot = 0;  // place in the stack's plan
  int step = 0;  // how many times this block was applied before (depth recurrence)
  const Source* source = nullptr;
  const Knobs* knobs = nullptr;
  Rng* rng = nullptr;  // needed in train mode by what is random

  // What is recorded.
  Sink* sink = nullptr;
  Choices* choices = nullptr;
  State* carry = nullptr;  // forward: starts there and leaves the final state there, differentiably

  // The residual stream, where the mixer may add its output to it in place and return an undefined tensor
  // (Linear::join). Offered only to mixers whose traits say that they take it; nullptr elsewhere.
  Stream* stream = nullptr;

  // In extend: the norm that the input has not had yet, since the mixer's first product makes it in passing
  // (Linear::enter); the input is then the stream in fp32. Only for mixers whose traits say that they take it.
  const ops::NormToCome* norm = nullptr;

  // Who attends: nullptr is the default core (core.h).
  AttentionCore* core = nullptr;
  State* core_state = nullptr;

  bool training() const { return mode != Mode::eval; }
};

}  // namespace rattan::nn
