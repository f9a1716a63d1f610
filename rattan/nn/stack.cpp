#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "rattan/base/error.h"
#include "rattan/nn/block.h"
#include "rattan/nn/checkpoint.h"

namespace rattan::nn {

Block& Stack::add_block() {
  const int index = static_cast<int>(blocks_.size());
  Block& block = *blocks_.emplace_back(std::make_unique<Block>(compute_));
  child("layers." + std::to_string(index), block);
  plan_.push_back(index);
  return block;
}

void Stack::set_plan(std::vector<int> plan) {
  for (int index : plan)
    require(index >= 0 && index < static_cast<int>(blocks_.size()), "a plan names block {}, the stack has {} of them",
            index, blocks_.size());
  plan_ = std::move(plan);
}

Block& Stack::enter(int slot, Call& call) {
  call.slot = slot;
  call.step = static_cast<int>(std::count(plan_.begin(), plan_.begin() + slot, plan_[slot]));
  return *blocks_[plan_[slot]];
}

void Stack::forward(Stream& stream, Call& call, int from, int to) {
  State* carry = call.carry;
  const bool recompute = checkpoint && call.training() && at::GradMode::is_enabled();
  for (int slot = from; slot < (to < 0 ? slots() : to); ++slot) {
    Block& block = enter(slot, call);
    call.carry = carry ? &carry->child[std::to_string(slot)] : nullptr;
    if (recompute) {
      checkpointed_forward(block, stream, call);
    } else {
      block.forward(stream, call);
    }
  }
  call.carry = carry;
}

void Stack::extend(Stream& stream, State& state, Call& call, int from, int to) {
  at::NoGradGuard no_grad;
  for (int slot = from; slot < (to < 0 ? slots() : to); ++slot) {
    enter(slot, call).extend(stream, state.child[std::to_string(slot)], call);
  }
  if (!state.length.defined() || call.layout.steps()) return;  // who steps counts
  auto length = state.length.accessor<int64_t, 1>();
  for (const Segment& s : call.layout.segments())
    if (s.to >= 0) length[s.to] = s.pos0 + s.length();
}

StateSpec Stack::state_spec() const {
  StateSpec spec;
  for (int slot = 0; slot < slots(); ++slot) {
    StateSpec block = blocks_[plan_[slot]]->state_spec();
    if (!block.empty()) spec.child[std::to_string(slot)] = std::move(block);
  }
  return spec;
}

double Stack::flops_per_token(int64_t tokens) const {
  double total = 0;
  for (int index : plan_) total += blocks_[index]->flops_per_token(tokens);
  return total;
}

}  // namespace rattan::nn
