#include "rattan/nn/mixers/kv_plan.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/remainder.h>

#include <algorithm>

#include "rattan/base/error.h"

namespace rattan::nn {
namespace kv_plan_file {

using Values = std::vector<int32_t>;

// Tables are kept by the layout under a key that names the plan and its sizes.
class Tables {
 public:
  Tables(const Layout& layout, std::string key) : layout_(layout), key_(std::move(key)) {}
  at::Tensor keep(const char* name, const std::function<Values()>& make, bool wide) const {
    return layout_.table(key_ + name, [&] {
      at::Tensor t = int_table(make(), 1, layout_.device()).view({-1});
      return wide ? t.to(at::kLong) : t;
    });
  }

 private:
  const Layout& layout_;
  std::string key_;
};

int32_t state_row(const Segment& s, int64_t rows) {
  require(s.from < 0 || s.from == s.to, "a segment must continue the state row it writes, not {} and {}", s.from, s.to);
  require(s.to < rows, "a segment names state row {} of {}", s.to, rows);
  return s.to;
}

// One value for every token that leaves something in a state row: value(segment, position, token row).
template <class Value>
Values each_token(const Layout& layout, int64_t rows, Value&& value) {
  Values out;
  for (const Segment& s : layout.segments()) {
    if (state_row(s, rows) < 0) continue;
    for (int32_t i = 0; i < s.length(); ++i)
      out.push_back(value(s, s.pos0 + i, static_cast<int32_t>(layout.first_token(s)) + i));
  }
  return out;
}

template <class Value>
Values each_position(const Layout& layout, Value&& value) {
  Values out(layout.size(), 0);
  for (const Segment& s : layout.segments())
    for (int32_t i = 0; i < s.length(); ++i) out[layout.first_token(s) + i] = value(s, s.pos0 + i);
  return out;
}

// The same tables by tensor algebra on the device.
CachePlan of_steps(const Layout& layout, const Steps& steps, int64_t entries, bool ring) {
  const std::string key = fmt::format("step.{}.{}.", ring, entries);
  require(ring || steps.limit <= entries, "positions up to {} do not fit a state of {} entries", steps.limit, entries);
  CachePlan plan;
  const at::Tensor& first = layout.table(key + "first", [&] { return steps.rows * entries; });
  plan.slots = layout.table(key + "slots", [&] {
    return (first + (ring ? at::remainder(steps.positions, entries) : steps.positions)).to(at::kLong);
  });
  plan.mask = {Visible::causal, -1, -1, first, layout.table(key + "end", [&] {
                 const at::Tensor seen = steps.positions + 1;
                 return first + (ring ? seen.clamp_max(entries) : seen);
               })};
  return plan;
}

CachePlan step_or_cache(const Layout& layout, int64_t rows, int64_t entries, bool ring) {
  if (layout.steps()) return of_steps(layout, *layout.steps(), entries, ring);
  const Tables tables(layout, fmt::format("kv.{}.{}.{}.", ring, rows, entries));
  auto slot = [&](const Segment& s, int32_t position) {
    require(ring || position < entries, "position {} does not fit a state of {} entries", position, entries);
    require(s.to >= 0, "extend needs a state row for every segment");
    return static_cast<int32_t>(s.to * entries + position % entries);
  };
  auto first = [&](const Segment& s, int32_t) { return static_cast<int32_t>(s.to * entries); };
  auto past_last = [&](const Segment& s, int32_t position) {
    return static_cast<int32_t>(s.to * entries + std::min<int64_t>(position + 1, entries));
  };
  CachePlan plan;
  plan.slots = tables.keep(
      "slots", [&] { return each_token(layout, rows, [&](auto& s, int32_t p, int32_t) { return slot(s, p); }); }, true);
  plan.tokens = tables.keep(
      "tokens", [&] { return each_token(layout, rows, [](auto&, int32_t, int32_t token) { return token; }); }, true);
  plan.mask = {Visible::causal, -1, -1,
               tables.keep(
                   "begin", [&] { return each_position(layout, first); }, false),
               tables.keep(
                   "end", [&] { return each_position(layout, past_last); }, false)};
  return plan;
}

}  // namespace kv_plan_file

CachePlan cache_plan(const Layout& layout, int64_t rows, int64_t entries) {
  return kv_plan_file::step_or_cache(layout, rows, entries, false);
}

CachePlan ring_step_plan(const Layout& layout, int64_t rows, int64_t cap) {
  return kv_plan_file::step_or_cache(layout, rows, cap, true);
}

bool single_tokens(const Layout& layout) {
  if (layout.steps()) return true;
  return std::all_of(layout.segments().begin(), layout.segments().end(),
                     [](const Segment& s) { return s.length() == 1; });
}

RingPlan ring_plan(const Layout& layout, int64_t rows, int64_t cap) {
  using namespace kv_plan_file;
  const Tables tables(layout, fmt::format("ring.{}.{}.", rows, cap));
  // The ring's entries that a segment can still see, oldest first, then its own tokens.
  auto old_from = [&](const Segment& s) {
    const int32_t row = state_row(s, rows);
    return row < 0 || s.from < 0 ? s.pos0 : static_cast<int32_t>(std::max<int64_t>(0, s.pos0 - (cap - 1)));
  };
  auto each_old = [&](auto&& visit) {
    for (const Segment& s : layout.segments())
      for (int32_t p = old_from(s); p < s.pos0; ++p) visit(static_cast<int32_t>(s.from * cap + p % cap));
  };
  RingPlan plan;
  plan.old = tables.keep(
      "old",
      [&] {
        Values old;
        each_old([&](int32_t slot) { old.push_back(slot); });
        return old;
      },
      true);
  plan.keys = tables.keep(
      "keys",
      [&] {
        Values keys;
        int32_t old = 0, all_old = 0;
        each_old([&](int32_t) { ++all_old; });
        for (const Segment& s : layout.segments()) {
          for (int32_t p = old_from(s); p < s.pos0; ++p) keys.push_back(old++);
          for (int32_t i = 0; i < s.length(); ++i)
            keys.push_back(all_old + static_cast<int32_t>(layout.first_token(s)) + i);
        }
        return keys;
      },
      true);
  auto interval = [&](bool upper) {
    Values out(layout.size(), 0);
    int32_t start = 0;
    for (const Segment& s : layout.segments()) {
      const int32_t oldest = old_from(s);
      for (int32_t i = 0; i < s.length(); ++i) {
        const int32_t position = s.pos0 + i;
        const auto low = static_cast<int32_t>(std::max<int64_t>(oldest, position - (cap - 1)));
        out[layout.first_token(s) + i] = start + (upper ? position + 1 : low) - oldest;
      }
      start += s.pos0 - oldest + s.length();
    }
    return out;
  };
  plan.mask = {Visible::causal, -1, -1,
               tables.keep(
                   "begin", [&] { return interval(false); }, false),
               tables.keep(
                   "end", [&] { return interval(true); }, false)};
  // The last `cap` tokens of each segment.
  auto each_kept = [&](auto&& value) {
    Values out;
    for (const Segment& s : layout.segments()) {
      if (s.to < 0) continue;
      for (int32_t i = std::max<int32_t>(0, s.length() - static_cast<int32_t>(cap)); i < s.length(); ++i)
        out.push_back(value(s, i));
    }
    return out;
  };
  plan.tokens = tables.keep(
      "tokens",
      [&] {
        return each_kept([&](const Segment& s, int32_t i) { return static_cast<int32_t>(layout.first_token(s)) + i; });
      },
      true);
  plan.slots = tables.keep(
      "slots",
      [&] {
        return each_kept(
            [&](const Segment& s, int32_t i) { return static_cast<int32_t>(s.to * cap + (s.pos0 + i) % cap); });
      },
      true);
  return plan;
}

}  // namespace rattan::nn
