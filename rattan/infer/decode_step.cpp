#include "rattan/infer/decode_step.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <functional>
#include <utility>

#include "rattan/base/error.h"
#include "rattan/infer/context.h"
#include "rattan/nn/mixer.h"
#include "rattan/ops/ops.h"

namespace rattan::infer {
namespace decode_step_file {

// From pinned memory the copy waits in the stream and the host goes on.
template <class T, class Value>
void copy_to(const at::Tensor& device, std::size_t n, Value&& value) {
  const auto options = at::TensorOptions().dtype(device.scalar_type()).pinned_memory(device.is_cuda());
  at::Tensor host = at::empty({static_cast<int64_t>(n)}, options);
  for (std::size_t i = 0; i < n; ++i) host.data_ptr<T>()[i] = static_cast<T>(value(i));
  device.view({-1}).copy_(host, /*non_blocking=*/true);
}

}  // namespace decode_step_file

bool DecodeStep::serves(models::Model& model) {
  bool takes = model.compute != at::kDouble;
  model.each_module([&](nn::Module& module) {
    if (const auto* mixer = dynamic_cast<const nn::Mixer*>(&module)) takes = takes && mixer->traits().takes_steps;
  });
  return takes;
}

DecodeStep::DecodeStep(models::Model& model, nn::State& state, int64_t slots, const DecodeStepConfig& config)
    : model_(model),
      state_(state),
      config_(config),
      slots_(static_cast<std::size_t>(slots), Slot{.idle = true}),
      graph_(device_of(model), config.graph) {
  const auto options = at::TensorOptions().device(device_of(model));
  for (at::Tensor* t : {&rows_, &positions_, &advance_}) *t = at::zeros({slots}, options.dtype(at::kInt));
  ids_ = at::zeros({slots}, options.dtype(at::kLong));
  logprobs_ = at::zeros({slots}, options.dtype(at::kDouble));
  rules_ = at::zeros({slots, sizeof(kernels::DrawRule) / sizeof(double)}, options.dtype(at::kDouble));
  rule(std::vector<kernels::DrawRule>(static_cast<std::size_t>(slots)));
}

void DecodeStep::place(std::span<const Slot> slots, const at::Tensor& chosen) {
  using decode_step_file::copy_to;
  const int64_t rows = state_.length.size(0);
  require(slots.size() == slots_.size(), "a step of {} slots cannot be given {}", slots_.size(), slots.size());
  std::vector<const Slot*> taken(static_cast<std::size_t>(rows), nullptr);
  for (const Slot& s : slots) {
    const bool exists = s.row >= 0 && s.row < rows;
    const Slot* const other = exists ? std::exchange(taken[static_cast<std::size_t>(s.row)], &s) : nullptr;
    require(exists && (!other || (other->idle && s.idle)),
            "every sequence needs a state row of its own, 0 to {}; row {} is none or taken", rows - 1, s.row);
    require(s.position >= 0 && s.position < config_.limit, "position {} does not fit a state of {} tokens", s.position,
            config_.limit);
    require(s.follows < (chosen.defined() ? chosen.size(0) : 0), "token {} was not chosen", s.follows);
  }
  std::copy(slots.begin(), slots.end(), slots_.begin());
  for (Slot& s : slots_)
    if (s.idle) s.position = 0;
  const std::size_t n = slots_.size();
  copy_to<int32_t>(rows_, n, [&](std::size_t i) { return slots_[i].row; });
  copy_to<int32_t>(positions_, n, [&](std::size_t i) { return slots_[i].position; });
  copy_to<int32_t>(advance_, n, [&](std::size_t i) { return slots_[i].idle ? 0 : config_.stride; });
  if (std::all_of(slots_.begin(), slots_.end(), [](const Slot& s) { return s.follows < 0; }))
    return copy_to<int64_t>(ids_, n, [&](std::size_t i) { return slots_[i].id; });
  // `chosen` may be ids_ itself, so what is taken from it is taken before.
  at::Tensor from = at::empty_like(ids_), known = at::empty_like(ids_);
  copy_to<int64_t>(from, n, [&](std::size_t i) { return slots_[i].follows; });
  copy_to<int64_t>(known, n, [&](std::size_t i) { return slots_[i].id; });
  ids_.copy_(at::where(from.ge(0), chosen.index_select(0, from.clamp_min(0)), known));
}

void DecodeStep::rule(std::span<const kernels::DrawRule> rules) {
  require(rules.size() == slots_.size(), "a step of {} slots cannot be given {} rules", slots_.size(), rules.size());
  if (std::equal(rules.begin(), rules.end(), host_rules_.begin(), host_rules_.end())) return;
  host_rules_.assign(rules.begin(), rules.end());
  const auto* numbers = reinterpret_cast<const double*>(rules.data());
  decode_step_file::copy_to<double>(rules_, static_cast<std::size_t>(rules_.numel()),
                                    [&](std::size_t i) { return numbers[i]; });
}

void DecodeStep::feed(std::span<const int32_t> ids) {
  require(ids.size() == slots_.size(), "a step of {} slots cannot be fed {} tokens", slots_.size(), ids.size());
  for (std::size_t i = 0; i < ids.size(); ++i) slots_[i].id = ids[i];
  decode_step_file::copy_to<int64_t>(ids_, ids.size(), [&](std::size_t i) { return ids[i]; });
}

void DecodeStep::run() {
  for (const Slot& s : slots_)
    require(s.position < config_.limit, "row {} is full: its state has room for {} tokens", s.row, config_.limit);
  graph_.run([this] { compute(); });
  auto length = state_.length.accessor<int64_t, 1>();
  for (Slot& s : slots_) {
    if (s.idle) continue;
    length[s.row] = s.position + 1;
    s.position += config_.stride;
  }
}

void DecodeStep::compute() {
  const Undifferentiated no_grad;
  ops::FewRowsScope few_rows;
  // Made anew, so that its tables are derived from where the sequences stand now, within what is recorded.
  const nn::Layout layout = nn::Layout::step(
      {.rows = rows_, .positions = positions_, .state_rows = state_.length.size(0), .limit = config_.limit});
  nn::Call call{layout};
  const at::Tensor h = model_.extend({ids_.unsqueeze(0), {}}, state_, call).squeeze(0);
  logits_ = model_.head().logits(h, call);
  if (config_.choose > 0) {
    const at::Tensor known = logits_.narrow(1, 0, std::min(config_.choose, logits_.size(1)));
    config_.draws ? ops::draw_into(ids_, logprobs_, known, rules_) : ops::argmax_into(ids_, known);
  }
  positions_.add_(advance_);
}

}  // namespace rattan::infer
