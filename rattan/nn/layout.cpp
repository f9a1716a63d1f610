#include "rattan/nn/layout.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/stack.h>

#include <algorithm>
#include <cstring>

#include "rattan/base/error.h"

namespace rattan::nn {
namespace layout_file {

std::vector<Segment> whole_rows(int64_t rows, int64_t tokens, bool states) {
  std::vector<Segment> segments(rows);
  for (int32_t row = 0; row < rows; ++row) {
    segments[row] = {.row = row, .begin = 0, .end = static_cast<int32_t>(tokens), .doc = row};
    if (states) segments[row].from = segments[row].to = row;
  }
  return segments;
}

}  // namespace layout_file

at::Tensor int_table(const std::vector<int32_t>& values, int64_t columns, at::Device device) {
  // From pinned memory the copy waits in the stream and the host goes on to what is computed next.
  const auto options = at::TensorOptions().dtype(at::kInt).pinned_memory(device.is_cuda());
  at::Tensor host = at::empty({static_cast<int64_t>(values.size()) / columns, columns}, options);
  if (!values.empty()) std::memcpy(host.data_ptr<int32_t>(), values.data(), values.size() * sizeof(int32_t));
  return host.to(device, /*non_blocking=*/true);
}

Layout Layout::uniform(int64_t rows, int64_t tokens, at::Device device, bool states) {
  return Layout(rows, tokens, layout_file::whole_rows(rows, tokens, states), device);
}

Layout::Layout(int64_t rows, int64_t tokens, std::vector<Segment> segments, at::Device device)
    : rows_(rows), tokens_(tokens), segments_(std::move(segments)), device_(device) {
  uniform_ = static_cast<int64_t>(segments_.size()) == rows_;
  int32_t row = 0, free_from = 0;
  for (size_t i = 0; i < segments_.size(); ++i) {
    const Segment& s = segments_[i];
    if (s.row != row) row = s.row, free_from = 0;
    require(s.row >= 0 && s.row < rows_ && (i == 0 || s.row >= segments_[i - 1].row) && s.begin >= free_from &&
                s.end > s.begin && s.end <= tokens_ && s.pos0 >= 0,
            "layout: segment {} (row {}, tokens {} to {}, position {}) must lie inside {} rows of {} tokens, after the "
            "segment before it, and must not be empty",
            i, s.row, s.begin, s.end, s.pos0, rows_, tokens_);
    require(s.prefix >= 0 && s.prefix <= s.length(), "layout: segment {} has {} tokens and a prefix of {}", i,
            s.length(), s.prefix);
    free_from = s.end;
    covered_ += s.length();
    uniform_ = uniform_ && s.begin == 0 && s.end == tokens_ && s.pos0 == 0;
  }
}

Layout Layout::step(Steps steps) {
  const at::Tensor &rows = steps.rows, &positions = steps.positions;
  for (const at::Tensor* t : {&rows, &positions})
    if (t->dim() != 1 || t->scalar_type() != at::kInt || t->sizes() != rows.sizes() || t->device() != rows.device())
      fail("a layout of steps takes rows and positions int32 [n] on one device");
  Layout layout(1, rows.size(0), {}, rows.device());
  layout.covered_ = rows.size(0);
  layout.uniform_ = false;
  layout.steps_ = std::move(steps);
  return layout;
}

const std::vector<Segment>& Layout::segments() const {
  if (steps_) fail("a layout of steps has no segments: they are known to the device alone");
  return segments_;
}

int64_t Layout::state_rows() const {
  if (steps_) return steps_->state_rows;
  int32_t last = -1;
  for (const Segment& s : segments_) last = std::max({last, s.from, s.to});
  return last + 1;
}

int64_t Layout::last_position() const {
  if (steps_) return steps_->limit - 1;
  int32_t last = 0;
  for (const Segment& s : segments_) last = std::max(last, s.pos0 + s.length() - 1);
  return last;
}

const at::Tensor& Layout::table(const std::string& key, const std::function<at::Tensor()>& make) const {
  at::Tensor& table = derived_->tables[key];
  if (!table.defined()) table = make();
  return table;
}

const MaskSpec& Layout::mask(int64_t left, int64_t right) const {
  if (steps_) fail("a layout of steps has no mask: what a token sees stands in the state of its mixer");
  auto [place, fresh] = derived_->masks.try_emplace({visible, left, right});
  if (!fresh) return place->second;
  std::vector<int32_t> begin(size(), 0), end(size(), 0);
  for (const Segment& s : segments_) {
    const int64_t offset = static_cast<int64_t>(s.row) * tokens_;
    for (int64_t t = s.begin; t < s.end; ++t) {
      int64_t low = left < 0 ? s.begin : std::max<int64_t>(s.begin, t - left);
      int64_t high = t + 1;
      if (visible == Visible::full) high = right < 0 ? s.end : std::min<int64_t>(s.end, t + right + 1);
      if (t < s.begin + s.prefix) high = std::max<int64_t>(high, std::min<int64_t>(s.end, s.begin + s.prefix));
      begin[offset + t] = static_cast<int32_t>(offset + low);
      end[offset + t] = static_cast<int32_t>(offset + high);
    }
  }
  place->second = {visible, left, right, int_table(begin, 1, device_).view({-1}),
                   int_table(end, 1, device_).view({-1})};
  return place->second;
}

const at::Tensor& Layout::positions() const {
  if (steps_) return steps_->positions;
  return table("positions", [this] {
    std::vector<int32_t> position(size(), 0);
    for (const Segment& s : segments_)
      for (int32_t i = 0; i < s.length(); ++i) position[first_token(s) + i] = s.pos0 + i;
    return int_table(position, 1, device_).view({-1});
  });
}

const at::Tensor& Layout::valid() const {
  return table("valid", [this] {
    if (steps_) return at::ones_like(steps_->rows, at::kBool);
    std::vector<int32_t> covered(size(), 0);
    for (const Segment& s : segments_) std::fill_n(covered.begin() + first_token(s), s.length(), 1);
    return int_table(covered, 1, device_).view({-1}).to(at::kBool);
  });
}

const at::Tensor& Layout::scan_table() const {
  return table("scan", [this] {
    if (steps_) {
      const at::Tensor token = at::arange(tokens_, steps_->rows.options());
      const at::Tensor from = steps_->rows.masked_fill(steps_->positions == 0, -1);
      return at::stack({token, token + 1, from, steps_->rows}, 1);
    }
    std::vector<int32_t> values;
    for (const Segment& s : segments_) {
      const auto first = static_cast<int32_t>(first_token(s));
      values.insert(values.end(), {first, first + s.length(), s.from, s.to});
    }
    return int_table(values, 4, device_);
  });
}

}  // namespace rattan::nn
