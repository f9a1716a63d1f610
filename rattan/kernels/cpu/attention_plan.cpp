#include "rattan/kernels/cpu/attention_plan.h"

#include <algorithm>
#include <vector>

namespace rattan::kernels {

struct AttentionPlan::Data {
  std::vector<AttentionTile> tiles;
  std::vector<AttentionStream> streams;
  std::vector<AttentionCluster> clusters;
};

namespace attention_plan_file {

std::vector<AttentionTile> cut(int64_t queries, const int32_t* begin, const int32_t* end) {
  std::vector<AttentionTile> tiles;
  for (int32_t i = 0; i < queries; ++i) {
    bool empty = begin[i] >= end[i];
    if (!tiles.empty() && tiles.back().rows < attention_tile_rows) {
      AttentionTile& tile = tiles.back();
      bool tile_empty = tile.begin == tile.end;
      if (empty && tile_empty) {
        tile.rows += 1;
        continue;
      }
      if (!empty && !tile_empty && begin[i] < tile.end && end[i] > tile.begin) {
        tile.rows += 1;
        tile.begin = std::min(tile.begin, begin[i]);
        tile.end = std::max(tile.end, end[i]);
        tile.full_begin = std::max(tile.full_begin, begin[i]);
        tile.full_end = std::min(tile.full_end, end[i]);
        continue;
      }
    }
    if (empty) {
      tiles.push_back({i, 1, 0, 0, 0, 0});
    } else {
      tiles.push_back({i, 1, begin[i], end[i], begin[i], end[i]});
    }
  }
  return tiles;
}

std::vector<AttentionCluster> gather(const std::vector<AttentionTile>& tiles) {
  std::vector<AttentionCluster> clusters;
  for (std::size_t t = 0; t < tiles.size(); ++t) {
    const AttentionTile& tile = tiles[t];
    if (!clusters.empty()) {
      AttentionCluster& last = clusters.back();
      bool empty = tile.begin == tile.end, last_empty = last.begin == last.end;
      if (empty || last_empty || (tile.begin < last.end && tile.end > last.begin)) {
        last.tiles += 1;
        if (last_empty) {
          last.begin = tile.begin, last.end = tile.end;
        } else if (!empty) {
          last.begin = std::min(last.begin, tile.begin), last.end = std::max(last.end, tile.end);
        }
        continue;
      }
    }
    clusters.push_back({static_cast<int32_t>(t), 1, tile.begin, tile.end});
  }
  std::vector<AttentionCluster> sorted = clusters;
  std::sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) { return a.begin < b.begin; });
  for (std::size_t i = 1; i < sorted.size(); ++i) {
    if (sorted[i].begin >= sorted[i - 1].end) continue;
    int32_t end = 0;  // keys met again by later rows: all is one cluster
    for (const AttentionCluster& cluster : clusters) end = std::max(end, cluster.end);
    return {{0, static_cast<int32_t>(tiles.size()), sorted[0].begin, end}};
  }
  return clusters;
}

}  // namespace attention_plan_file

AttentionPlan::AttentionPlan(int64_t queries, const int32_t* begin, const int32_t* end, bool with_streams)
    : data_(new Data) {
  Data& d = *data_;
  std::vector<AttentionTile> all = attention_plan_file::cut(queries, begin, end);
  for (const AttentionTile& tile : all) {
    if (!with_streams || tile.rows > 1) {
      d.tiles.push_back(tile);
      continue;
    }
    int32_t seen = tile.end - tile.begin;
    int32_t parts = std::max(1, (seen + attention_stream_keys - 1) / attention_stream_keys);
    int32_t length = (seen + parts - 1) / parts;
    for (int32_t part = 0; part < parts; ++part) {
      int32_t from = tile.begin + part * length;
      d.streams.push_back({tile.row, from, std::min(from + length, tile.end), part, parts});
    }
  }
  d.clusters = attention_plan_file::gather(d.tiles);
  tiles = d.tiles.data();
  streams = d.streams.data();
  clusters = d.clusters.data();
  tile_count = static_cast<int64_t>(d.tiles.size());
  stream_count = static_cast<int64_t>(d.streams.size());
  cluster_count = static_cast<int64_t>(d.clusters.size());
}

AttentionPlan::~AttentionPlan() { delete data_; }

}  // namespace rattan::kernels
