#include "rattan/infer/context.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <limits>
#include <optional>

#include "rattan/base/error.h"
#include "rattan/base/parallel.h"
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

bool same_place(const Slot& a, const Slot& b) { return a.row == b.row && a.position == b.position && a.idle == b.idle; }

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
  // Pinned: the host need not wait for the copy.
  const auto options = at::TensorOptions().dtype(at::kLong).pinned_memory(device.is_cuda());
  at::Tensor out = at::empty({static_cast<int64_t>(ids.size())}, options);
  std::copy(ids.begin(), ids.end(), out.data_ptr<int64_t>());
  return out.to(device, /*non_blocking=*/true);
}

at::Tensor target_scores(models::Model& model, const at::Tensor& h, const at::Tensor& targets) {
  constexpr int64_t rows = 512;
  const Undifferentiated no_grad;
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

Context::Context(models::Model& model, int64_t rows, int64_t capacity, bool record)
    : model_(model),
      device_(device_of(model)),
      state_(nn::make_state(model.state_spec(), rows, capacity, model.compute, device_)),
      lengths_(static_cast<std::size_t>(rows), 0),
      released_(static_cast<std::size_t>(rows), false),
      capacity_(capacity),
      serves_steps_(DecodeStep::serves(model)),
      record_(record) {}

at::Tensor read_rows(models::Model& model, nn::State& state, std::span<const Reading> readings) {
  const Undifferentiated no_grad;
  ops::FewRowsScope few_rows;
  const at::Device device = device_of(model);
  std::vector<nn::Segment> segments;
  std::vector<int32_t> ids;
  for (const Reading& r : readings) {
    const auto row = static_cast<int32_t>(r.row), begin = static_cast<int32_t>(ids.size());
    ids.insert(ids.end(), r.ids.begin(), r.ids.end());
    segments.push_back({.begin = begin,
                        .end = static_cast<int32_t>(ids.size()),
                        .pos0 = static_cast<int32_t>(r.held),
                        .doc = row,
                        .from = r.held > 0 ? row : -1,
                        .to = row});
  }
  const nn::Layout layout(1, static_cast<int64_t>(ids.size()), std::move(segments), device);
  nn::Call call{layout};
  return model.extend({ids_tensor(ids, device).unsqueeze(0), {}}, state, call).squeeze(0);
}

at::Tensor logits_of(models::Model& model, const at::Tensor& h) {
  const Undifferentiated no_grad;
  ops::FewRowsScope few_rows;
  const nn::Layout layout = nn::Layout::uniform(1, h.size(0), h.device());
  nn::Call call{layout};
  return model.head().logits(h, call);
}

int64_t slots_for(int64_t n, at::Device device) {
  if (!device.is_cuda()) return n;
  int64_t grain = 1;
  while (16 * grain < n) grain *= 2;
  return ceil_div(n, grain) * grain;
}

at::Tensor Context::extend(std::span<const Piece> pieces) {
  std::vector<Reading> readings;
  int64_t longest = 0;
  for (const Piece& piece : pieces) {
    readings.push_back({piece.row, length(piece.row), piece.ids});
    longest = std::max(longest, length(piece.row) + static_cast<int64_t>(piece.ids.size()));
  }
  reserve(longest);
  at::Tensor h = read_rows(model_, state_, readings);
  for (const Piece& piece : pieces)
    lengths_[static_cast<std::size_t>(piece.row)] += static_cast<int64_t>(piece.ids.size());
  return h;
}

at::Tensor Context::logits(const at::Tensor& h) { return logits_of(model_, h); }

DecodeStep& Context::step_of(int64_t slots, int64_t greedy) {
  std::unique_ptr<DecodeStep>& step = steps_[{slots, greedy}];
  if (!step)
    step = std::make_unique<DecodeStep>(model_, state_, slots,
                                        DecodeStepConfig{.limit = capacity_, .choose = greedy, .graph = record_});
  return *step;
}

Context::Next Context::step(std::span<const Piece> pieces, int64_t greedy) {
  for (const Piece& piece : pieces)
    require(piece.ids.size() == 1, "a step reads one token of a row, not {}", piece.ids.size());
  if (!serves_steps_) return {logits(extend(pieces)), {}, {}};
  int64_t longest = 0;
  for (const Piece& piece : pieces) longest = std::max(longest, length(piece.row) + 1);
  reserve(longest);
  std::vector<Slot> slots;
  std::vector<int32_t> ids;
  for (const Piece& piece : pieces)
    slots.push_back({.row = piece.row, .position = length(piece.row), .id = piece.ids.front()});
  const auto wanted = static_cast<std::size_t>(slots_for(static_cast<int64_t>(slots.size()), device_));
  std::vector<Slot> idle;
  for (std::size_t row = 0; row < released_.size() && slots.size() + idle.size() < wanted; ++row)
    if (released_[row]) idle.push_back({.row = static_cast<int64_t>(row), .idle = true});
  if (slots.size() + idle.size() == wanted) slots.insert(slots.end(), idle.begin(), idle.end());
  for (const Slot& s : slots) ids.push_back(s.id);
  DecodeStep& step = step_of(static_cast<int64_t>(slots.size()), greedy);
  if (std::equal(slots.begin(), slots.end(), step.slots().begin(), context_file::same_place)) {
    step.feed(ids);
  } else {
    step.place(slots);
  }
  step.run();
  for (const Piece& piece : pieces) ++lengths_[static_cast<std::size_t>(piece.row)];
  if (greedy == 0) return {step.logits(), {}, {}};
  return {step.logits(), step.chosen(), step.logprobs()};
}

void Context::release(int64_t row) { released_[static_cast<std::size_t>(row)] = true; }

void Context::reserve(int64_t tokens) {
  if (tokens <= capacity_) return;
  require(tokens <= std::numeric_limits<int32_t>::max(), "a sequence of {} tokens is longer than positions can count",
          tokens);
  capacity_ = std::max(tokens, 2 * capacity_);
  nn::State larger =
      nn::make_state(model_.state_spec(), static_cast<int64_t>(lengths_.size()), capacity_, model_.compute, device_);
  context_file::copy_into(larger, state_);
  steps_.clear();  // they hold on to the tensors of the smaller state
  state_ = std::move(larger);
}

void Context::select(const std::vector<int64_t>& rows) {
  at::Tensor index = at::empty({static_cast<int64_t>(rows.size())}, at::kLong);
  std::copy(rows.begin(), rows.end(), index.data_ptr<int64_t>());
  steps_.clear();
  state_ = state_.rows(index);
  released_.assign(rows.size(), false);
  std::vector<int64_t> lengths;
  for (int64_t row : rows) lengths.push_back(length(row));
  lengths_ = std::move(lengths);
}

}  // namespace rattan::infer
