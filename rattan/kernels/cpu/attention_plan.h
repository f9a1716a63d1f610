// How the CPU kernels cut the query rows of interval attention into tiles. The cut depends on the intervals
// alone: a tile is a run of at most 64 rows whose intervals overlap, so that the keys of disjoint intervals
// (packed documents) never meet, and keys outside a tile's intervals are never read.
#pragma once
#include <cstdint>

namespace rattan::kernels {

constexpr int32_t attention_tile_rows = 64;
constexpr int32_t attention_stream_keys = 1024;  // most keys of one part of a stream

struct AttentionTile {
  int32_t row, rows;
  int32_t begin, end;            // union of the intervals; begin == end: the rows see nothing
  int32_t full_begin, full_end;  // keys that every row sees
};

// Tiles of one row (decode) stream their keys, in one or more parts that are tasks of their own.
struct AttentionStream {
  int32_t row, begin, end;  // keys of this part
  int32_t part, parts;
};

// Tiles whose keys may meet; different clusters have no key in common.
struct AttentionCluster {
  int32_t tile, tiles;
  int32_t begin, end;  // keys
};

class AttentionPlan {
 public:
  // With `with_streams`, one-row tiles become streams; otherwise they are tiles like any other.
  AttentionPlan(int64_t queries, const int32_t* begin, const int32_t* end, bool with_streams);
  ~AttentionPlan();
  AttentionPlan(const AttentionPlan&) = delete;
  AttentionPlan& operator=(const AttentionPlan&) = delete;

  const AttentionTile* tiles;
  const AttentionStream* streams;
  const AttentionCluster* clusters;
  int64_t tile_count, stream_count, cluster_count;

 private:
  struct Data;
  Data* data_;
};

}  // namespace rattan::kernels
