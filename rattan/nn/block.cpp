#include "rattan/nn/block.h"

#include <ATen/TensorOperators.h>

#include "rattan/nn/dropout.h"

namespace rattan::nn {

at::Tensor& Stream::resolve() {
  if (pending.defined()) {
    x = x + pending;
    owned = true;
  }
  pending = added = at::Tensor();
  return x;
}

void AddResidual::join(Stream& stream, at::Tensor branch, Call&) {
  stream.resolve();
  stream.pending = std::move(branch);
}

void Block::add(std::string name, Branch branch) {
  if (branch.norm) child(name + "_norm", *branch.norm);
  child(name, *branch.fn);
  child(name + "_join", *branch.join);
  names_.push_back(std::move(name));
  branches_.push_back(std::move(branch));
}

at::Tensor Block::input_of(const Branch& branch, Stream& stream) const {
  if (branch.place != Place::pre) return stream.resolve().to(*compute_);
  return branch.norm->join(stream, *compute_);
}

std::optional<ops::NormToCome> Block::left_to_the_product(const Branch& branch, const Stream& stream) const {
  const bool takes = branch.place == Place::pre && branch.fn->traits().enters_by_linear;
  if (!takes || stream.pending.defined() || !ops::joins_norm(stream.x, *compute_)) return std::nullopt;
  return branch.norm->to_come(*compute_);
}

Stream* Block::offered(const Branch& branch, Stream& stream, const Call& call) const {
  const bool plain = branch.place == Place::pre && branch.join->adds() && (branch.dropout == 0 || !call.training());
  return plain && stream.owned && branch.fn->traits().adds_to_stream ? &stream : nullptr;
}

void Block::leave(const Branch& branch, Stream& stream, at::Tensor y, Call& call, size_t index) {
  if (!y.defined()) return;  // added already
  if (branch.dropout > 0) y = dropout(y, branch.dropout, names_[index], call);
  branch.join->join(stream, std::move(y), call);
  if (branch.place != Place::post) return;
  stream.resolve();
  stream.x = branch.norm->join(stream, stream.x.scalar_type());
  stream.owned = false;  // the norm keeps it
}

void Block::forward(Stream& stream, Call& call) {
  State* carry = call.carry;
  for (size_t i = 0; i < branches_.size(); ++i) {
    const Branch& branch = branches_[i];
    call.carry = carry ? &carry->child[names_[i]] : nullptr;
    const at::Tensor input = input_of(branch, stream);
    call.stream = offered(branch, stream, call);
    at::Tensor y = branch.fn->forward(input, call);
    call.stream = nullptr;
    leave(branch, stream, std::move(y), call, i);
  }
  call.carry = carry;
}

void Block::extend(Stream& stream, State& state, Call& call) {
  for (size_t i = 0; i < branches_.size(); ++i) {
    const Branch& branch = branches_[i];
    const auto norm = left_to_the_product(branch, stream);
    const at::Tensor input = norm ? stream.x : input_of(branch, stream);
    call.norm = norm ? &*norm : nullptr;
    call.stream = offered(branch, stream, call);
    at::Tensor y = branch.fn->extend(input, state.child[names_[i]], call);
    call.stream = nullptr, call.norm = nullptr;
    leave(branch, stream, std::move(y), call, i);
  }
}

StateSpec Block::state_spec() const {
  StateSpec spec;
  for (size_t i = 0; i < branches_.size(); ++i) {
    StateSpec branch = branches_[i].fn->state_spec();
    if (!branch.empty()) spec.child[names_[i]] = std::move(branch);
  }
  return spec;
}

double Block::flops_per_token(int64_t tokens) const {
  double total = 0;
  for (const Branch& branch : branches_) total += branch.fn->flops_per_token(tokens);
  return total;
}

}  // namespace rattan::nn
