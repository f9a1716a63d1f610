#include "rattan/nn/mixers/rat_chunks.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/floor_divide.h>
#include <ATen/ops/remainder.h>
#include <ATen/ops/stack.h>

#include <algorithm>
#include <optional>

#include "rattan/base/error.h"
#include "rattan/base/parallel.h"
#include "rattan/kernels/rat.h"
#include "rattan/ops/rat_step_table.h"

namespace rattan::nn {
namespace rat_chunks_file {

void add_segment(const Layout& layout, const Segment& s, int64_t chunk, int64_t ends_per_row,
                 std::vector<kernels::RatChunk>& out) {
  const bool stateful = ends_per_row > 0 && s.to >= 0;
  require(!stateful || s.from < 0 || s.from == s.to, "a segment must continue the state row it writes, not {} and {}",
          s.from, s.to);
  const auto origin = static_cast<int32_t>(s.pos0 / chunk);
  const auto first = static_cast<int32_t>(stateful ? s.to * ends_per_row : static_cast<int64_t>(out.size()));
  const auto offset = static_cast<int32_t>(layout.first_token(s));
  for (int32_t done = 0; done < s.length();) {
    const int32_t position = s.pos0 + done, c = static_cast<int32_t>(position / chunk);
    const auto take = static_cast<int32_t>(std::min<int64_t>(s.length() - done, chunk - position % chunk));
    const bool last = done + take == s.length(), begun = done == 0 && position % chunk != 0;
    out.push_back({.begin = offset + done,
                   .end = offset + done + take,
                   .first = first,
                   .slot = stateful ? first + c : first + c - origin,
                   .position = c,
                   .from = stateful && begun ? s.from : -1,
                   .to = stateful && last ? s.to : -1});
    require(!stateful || c < ends_per_row, "position {} does not fit a state of {} chunks of {} tokens", position,
            ends_per_row, chunk);
    done += take;
  }
}

// One chunk of one token a sequence, made on the device; on a processor by tensor algebra.
at::Tensor of_steps(const Steps& steps, int64_t chunk, int64_t ends_per_row) {
  require(ceil_div(steps.limit, chunk) <= ends_per_row,
          "positions up to {} do not fit a state of {} chunks of {} tokens", steps.limit, ends_per_row, chunk);
  if (steps.rows.is_cuda()) return ops::rat_step_table(steps.rows, steps.positions, chunk, ends_per_row);
  const at::Tensor token = at::arange(steps.rows.size(0), steps.rows.options());
  const at::Tensor first = steps.rows * ends_per_row, c = at::floor_divide(steps.positions, chunk);
  const at::Tensor from = steps.rows.masked_fill(at::remainder(steps.positions, chunk) == 0, -1);
  return at::stack({token, token + 1, first, first + c, c, from, steps.rows}, 1);
}

at::Tensor table_of(const std::vector<kernels::RatChunk>& chunks, at::Device device) {
  constexpr int64_t columns = sizeof(kernels::RatChunk) / sizeof(int32_t);
  const auto* values = reinterpret_cast<const int32_t*>(chunks.data());
  return int_table({values, values + chunks.size() * columns}, columns, device);
}

std::vector<kernels::RatChunk> on_host(const Layout& layout, int64_t chunk, int64_t ends_per_row) {
  std::vector<kernels::RatChunk> chunks;
  if (const auto& steps = layout.steps()) {
    const at::Tensor table = of_steps(*steps, chunk, ends_per_row).to(at::kCPU, at::kInt).contiguous();
    const auto* values = static_cast<const kernels::RatChunk*>(table.data_ptr());
    chunks.assign(values, values + table.size(0));
  } else {
    for (const Segment& s : layout.segments()) add_segment(layout, s, chunk, ends_per_row, chunks);
  }
  return chunks;
}

// Buffer rows in the order of sequences: old ends, then new ones.
struct SeenTables {
  std::vector<kernels::RatChunk> chunks;
  std::vector<int32_t> old_state, old_scratch, new_scratch, new_state;
  int32_t ends = 0;

  explicit SeenTables(std::vector<kernels::RatChunk> of_state) : chunks(std::move(of_state)) {
    for (std::size_t i = 0; i < chunks.size();) {
      std::size_t end = i;
      while (end < chunks.size() && chunks[end].first == chunks[i].first) ++end;
      const int32_t first = chunks[i].first, shift = ends - first;
      for (int32_t e = first; e < chunks[i].slot; ++e) old_state.push_back(e), old_scratch.push_back(e + shift);
      for (; i < end; ++i) {
        kernels::RatChunk& c = chunks[i];
        new_state.push_back(c.slot), new_scratch.push_back(c.slot + shift);
        ends = c.slot + shift + 1;
        c.first += shift, c.slot += shift;
      }
    }
  }
};

}  // namespace rat_chunks_file

RatSeenEnds rat_seen_ends(const Layout& layout, int64_t chunk, int64_t rows, int64_t ends_per_row) {
  using namespace rat_chunks_file;
  const std::string key = fmt::format("rat.seen.{}.{}.", chunk, ends_per_row);
  std::optional<SeenTables> made;
  auto tables = [&]() -> const SeenTables& {
    if (!made) made.emplace(on_host(layout, chunk, ends_per_row));
    return *made;
  };
  auto rows_of = [&](const char* name, std::vector<int32_t> SeenTables::*values) {
    return layout.table(key + name,
                        [&] { return int_table(tables().*values, 1, layout.device()).view({-1}).to(at::kLong); });
  };
  RatSeenEnds seen;
  seen.chunks.table = layout.table(key + "table", [&] { return table_of(tables().chunks, layout.device()); });
  seen.old_state = rows_of("old_state", &SeenTables::old_state);
  seen.old_scratch = rows_of("old_scratch", &SeenTables::old_scratch);
  seen.new_scratch = rows_of("new_scratch", &SeenTables::new_scratch);
  seen.new_state = rows_of("new_state", &SeenTables::new_state);
  seen.chunks.positions = rat_ends(layout, chunk);
  seen.chunks.rows = rows;
  seen.chunks.ends = std::max<int64_t>(1, ceil_div(seen.old_state.size(0) + seen.new_state.size(0), rows));
  return seen;
}

int64_t rat_ends(const Layout& layout, int64_t chunk) { return layout.last_position() / chunk + 1; }

RatChunks rat_chunks(const Layout& layout, int64_t chunk, int64_t ends_per_row) {
  RatChunks result;
  result.positions = rat_ends(layout, chunk);
  const std::string key = fmt::format("rat.{}.{}", chunk, ends_per_row);
  if (const auto& steps = layout.steps()) {
    result.table = layout.table(key, [&] { return rat_chunks_file::of_steps(*steps, chunk, ends_per_row); });
    result.rows = std::max<int64_t>(1, steps->state_rows), result.ends = ends_per_row, result.step = true;
    return result;
  }
  result.step = !layout.has_padding() && std::all_of(layout.segments().begin(), layout.segments().end(),
                                                     [](const Segment& s) { return s.length() == 1; });
  result.table = layout.table(key, [&] {
    return rat_chunks_file::table_of(rat_chunks_file::on_host(layout, chunk, ends_per_row), layout.device());
  });
  if (ends_per_row > 0) {
    result.rows = std::max<int64_t>(1, layout.state_rows());
    result.ends = ends_per_row;
  } else {
    result.ends = std::max<int64_t>(1, result.table.size(0));
  }
  return result;
}

}  // namespace rattan::nn
