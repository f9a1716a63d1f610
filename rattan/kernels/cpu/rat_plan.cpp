#include "rattan/kernels/cpu/rat_plan.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace rattan::kernels {

struct RatPlan::Data {
  std::vector<RatTile> tiles;
  std::vector<RatSequence> sequences;
  std::vector<RatGroup> groups;
  std::vector<RatStream> streams;
  std::vector<int32_t> start_state, piece_state, padding;
};

namespace rat_plan_file {

bool overlap(const std::vector<RatSequence>& sequences) {
  std::vector<std::pair<int32_t, int32_t>> ranges;
  for (const RatSequence& s : sequences) ranges.emplace_back(s.first, s.last);
  std::sort(ranges.begin(), ranges.end());
  for (std::size_t i = 1; i < ranges.size(); ++i) {
    if (ranges[i].first < ranges[i - 1].second) return true;
  }
  return false;
}

std::vector<int32_t> rows_in_no_chunk(int64_t tokens, const RatChunk* table, int64_t chunks) {
  std::vector<bool> covered(static_cast<std::size_t>(tokens));
  int64_t count = 0;
  for (int64_t j = 0; j < chunks; ++j) {
    std::fill(covered.begin() + table[j].begin, covered.begin() + table[j].end, true);
    count += table[j].end - table[j].begin;
  }
  std::vector<int32_t> rows;
  if (count == tokens) return rows;
  for (int64_t i = 0; i < tokens; ++i) {
    if (!covered[static_cast<std::size_t>(i)]) rows.push_back(static_cast<int32_t>(i));
  }
  return rows;
}

}  // namespace rat_plan_file

RatPlan::RatPlan(const RatShape& shape, const RatChunk* table) : data_(new Data) {
  Data& d = *data_;
  int32_t states = 0;
  has_pieces = false;
  bool open = false;  // the last tile takes further whole chunks
  for (int32_t j = 0; j < shape.chunks; ++j) {
    const RatChunk& chunk = table[j];
    int32_t length = chunk.end - chunk.begin;
    bool continues = j > 0 && chunk.first == table[j - 1].first && chunk.slot > table[j - 1].slot;
    if (!continues) {
      d.sequences.push_back({static_cast<int32_t>(d.tiles.size()), 0, chunk.first, chunk.slot + 1});
      open = false;
    }
    d.sequences.back().last = chunk.slot + 1;
    d.start_state.push_back(chunk.from >= 0 ? states++ : -1);
    int32_t sequence = static_cast<int32_t>(d.sequences.size()) - 1;
    if (open && d.tiles.back().tokens + length <= rat_tile_tokens) {
      d.tiles.back().chunks += 1;
      d.tiles.back().tokens += length;
    } else {
      for (int32_t skip = 0; skip < length; skip += rat_tile_tokens) {
        d.tiles.push_back({j, 1, skip, std::min(length - skip, rat_tile_tokens), sequence});
      }
      open = length <= rat_tile_tokens;
    }
    int32_t later_pieces = (length - 1) / rat_tile_tokens;
    d.piece_state.push_back(later_pieces > 0 ? states : -1);
    states += later_pieces;
    has_pieces |= later_pieces > 0;
    if (!d.groups.empty() && table[j].end - table[d.groups.back().chunk].begin <= rat_tile_tokens &&
        table[j].begin >= table[j - 1].end) {
      d.groups.back().chunks += 1;
    } else {
      d.groups.push_back({j, 1});
    }
  }
  only_streams = true;
  for (RatTile& tile : d.tiles) {
    d.sequences[static_cast<std::size_t>(tile.sequence)].tiles += 1;
    if (tile.tokens != 1) {
      only_streams = false;
      continue;
    }
    int32_t seen = table[tile.chunk].slot - table[tile.chunk].first;
    int32_t parts = std::max(1, (seen + rat_stream_ends - 1) / rat_stream_ends);
    int32_t index = static_cast<int32_t>(&tile - d.tiles.data());
    for (int32_t part = 0; part < parts; ++part) d.streams.push_back({index, part, parts});
  }
  d.padding = rat_plan_file::rows_in_no_chunk(shape.tokens, table, shape.chunks);
  tiles = d.tiles.data();
  sequences = d.sequences.data();
  groups = d.groups.data();
  streams = d.streams.data();
  start_state = d.start_state.data();
  piece_state = d.piece_state.data();
  padding = d.padding.data();
  tile_count = static_cast<int64_t>(d.tiles.size());
  sequence_count = static_cast<int64_t>(d.sequences.size());
  group_count = static_cast<int64_t>(d.groups.size());
  padding_count = static_cast<int64_t>(d.padding.size());
  state_count = states;
  stream_count = static_cast<int64_t>(d.streams.size());
  sequences_overlap = rat_plan_file::overlap(d.sequences);
}

RatPlan::~RatPlan() { delete data_; }

}  // namespace rattan::kernels
