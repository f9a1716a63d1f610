#include "rattan/nn/block.h"
#include "rattan/nn/checkpoint.h"

#include <ATen/core/grad_mode.h>

namespace rattan::nn {

Block& Stack::add_block() {
  const int index = static_cast<int>(blocks_.size());
  Block& block = *blocks_.emplace_back(std::make_unique<Block>(compute_));
  child("layers." + std::to_string(index), block);
  plan_.push_back(index);
  return block;
}

void Stack::set_plan(std::vector<int> plan) { plan_ = std::move(plan); }

void Stack::forward(Stream& stream, Call& call, int from, int to) {
  State* carry = call.carry;
  const bool recompute = checkpoint && call.training() && at::GradMode::is_enabled();
  for (int slot = from; slot < (to < 0 ? slots() : to); ++slot) {
    call.slot = slot;
    call.carry = carry ? &carry->child[std::to_string(slot)] : nullptr;
    if (recompute) {
      checkpointed_forward(*blocks_[plan_[slot]], stream, call);
    } else {
      blocks_[plan_[slot]]->forward(stream, call);
    }
  }
  call.carry = carry;
}

void Stack::extend(Stream& stream, State& state, Call& call, int from, int to) {
  at::NoGradGuard no_grad;
  for (int slot = from; slot < (to < 0 ? slots() : to); ++slot) {
    call.slot = slot;
    blocks_[plan_[slot]]->extend(stream, state.child[std::to_string(slot)], call);
  }
  if (!state.length.defined()) return;
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
