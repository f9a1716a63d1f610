#include "rattan/infer/context.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <limits>
#include <optional>

#include "rattan/base/error.h"
#include "rattan/ops/ops.h"

namespace rattan::infer {

namespace context_file {

// Copies a state into one of more room: only fields that grow with the tokens differ in size, along dimension 1.
void copy_into(nn::State& larger, const nn::State& state) {
  for (auto& [name, to] : larger.t) {
    const at::Tensor& from = state.t.at(name);
    (to.sizes() == from.sizes() ? to : to.narrow(1, 0, from.size(1))).copy_(from);
  }
  for (auto& [name, child] : larger.child) copy_into(child, state.child.at(name));
  larger.length = state.length;
}

}  // namespace context_file

at::Device device_of(models::Model& model) {
  std::optional<at::Device> device;
  model.each_param([&](const std::string& name, nn::Param& param) {
    if (!param.master().defined()) fail("the parameter {} has no values yet", name);
    if (!device) device = param.master().device();
  });
  if (!device) fail("the model has no parameters");
  return *device;
}

at::Tensor ids_tensor(std::span<const int32_t> ids, at::Device device) {
  at::Tensor out = at::empty({static_cast<int64_t>(ids.size())}, at::kLong);
  std::copy(ids.begin(), ids.end(), out.data_ptr<int64_t>());
  return out.to(device);
}

at::Tensor target_scores(models::Model& model, const at::Tensor& h, const at::Tensor& targets) {
  constexpr int64_t rows = 512;
  at::NoGradGuard no_grad;
  const int64_t n = targets.size(0);
  at::Tensor out = at::empty({n}, at::kFloat);
  for (int64_t first = 0; first < n; first += rows) {
    const int64_t count = std::min(rows, n - first);
    const nn::Layout layout = nn::Layout::uniform(1, count, h.device());
    nn::Call call{layout};
    const at::Tensor candidates = targets.narrow(0, first, count).unsqueeze(-1);
    out.narrow(0, first, count).copy_(model.head().score(h.narrow(0, first, count), candidates, call).squeeze(-1));
  }
  return out;
}

Context::Context(models::Model& model, int64_t rows, int64_t capacity)
    : model_(model),
      device_(device_of(model)),
      state_(nn::make_state(model.state_spec(), rows, capacity, model.compute, device_)),
      lengths_(static_cast<std::size_t>(rows), 0),
      capacity_(capacity) {}

at::Tensor Context::extend(std::span<const Piece> pieces) {
  at::NoGradGuard no_grad;
  ops::FewRowsScope few_rows;
  int64_t longest = 0;
  for (const Piece& piece : pieces)
    longest = std::max(longest, length(piece.row) + static_cast<int64_t>(piece.ids.size()));
  reserve(longest);
  std::vector<nn::Segment> segments;
  std::vector<int32_t> ids;
  for (const Piece& piece : pieces) {
    const int64_t held = length(piece.row);
    const auto row = static_cast<int32_t>(piece.row), begin = static_cast<int32_t>(ids.size());
    ids.insert(ids.end(), piece.ids.begin(), piece.ids.end());
    segments.push_back({.begin = begin,
                        .end = static_cast<int32_t>(ids.size()),
                        .pos0 = static_cast<int32_t>(held),
                        .doc = row,
                        .from = row,
                        .to = row});
  }
  const nn::Layout layout(1, static_cast<int64_t>(ids.size()), std::move(segments), device_);
  nn::Call call{layout};
  at::Tensor h = model_.extend({ids_tensor(ids, device_).unsqueeze(0), {}}, state_, call);
  for (const Piece& piece : pieces)
    lengths_[static_cast<std::size_t>(piece.row)] += static_cast<int64_t>(piece.ids.size());
  return h.squeeze(0);
}

at::Tensor Context::logits(const at::Tensor& h) {
  at::NoGradGuard no_grad;
  ops::FewRowsScope few_rows;
  const nn::Layout layout = nn::Layout::uniform(1, h.size(0), device_);
  nn::Call call{layout};
  return model_.head().logits(h, call);
}

void Context::reserve(int64_t tokens) {
  if (tokens <= capacity_) return;
  require(tokens <= std::numeric_limits<int32_t>::max(), "a sequence of {} tokens is longer than positions can count",
          tokens);
  capacity_ = std::max(tokens, 2 * capacity_);
  nn::State larger =
      nn::make_state(model_.state_spec(), static_cast<int64_t>(lengths_.size()), capacity_, model_.compute, device_);
  context_file::copy_into(larger, state_);
  state_ = std::move(larger);
}

void Context::select(const std::vector<int64_t>& rows) {
  at::Tensor index = at::empty({static_cast<int64_t>(rows.size())}, at::kLong);
  std::copy(rows.begin(), rows.end(), index.data_ptr<int64_t>());
  state_ = state_.rows(index);
  std::vector<int64_t> lengths;
  for (int64_t row : rows) lengths.push_back(length(row));
  lengths_ = std::move(lengths);
}

}  // namespace rattan::infer
