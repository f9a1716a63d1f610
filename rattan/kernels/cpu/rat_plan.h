// How the CPU kernels cut a RAT chunk table into tiles. The cut depends on the table alone.
//
// A tile is a run of whole consecutive chunks of one sequence with at most 64 tokens together, or a piece of at
// most 64 tokens of one longer chunk. What precedes a chunk that starts from a running state, and a piece that
// is not its chunk's first, is kept in rows of a buffer of states.
#pragma once
#include <cstdint>

#include "rattan/kernels/rat.h"

namespace rattan::kernels {

constexpr int32_t rat_tile_tokens = 64;
constexpr int32_t rat_stream_ends = 512;  // most ends of one part of a stream

struct RatTile {
  int32_t chunk, chunks;  // rows of the table
  int32_t skip, tokens;   // tokens of the first chunk that precede this tile; tokens of this tile
  int32_t sequence;
};

// One-token tiles stream the ends they see, in one or more parts that are tasks of their own.
struct RatStream {
  int32_t tile, part, parts;
};

// Consecutive chunks that see one another's ends; the end rows they see or write lie in [first, last).
struct RatSequence {
  int32_t tile, tiles;
  int32_t first, last;
};

// Consecutive chunks with about 64 tokens together, for passes that take chunk by chunk.
struct RatGroup {
  int32_t chunk, chunks;
};

class RatPlan {
 public:
  RatPlan(const RatShape& shape, const RatChunk* table);
  ~RatPlan();
  RatPlan(const RatPlan&) = delete;
  RatPlan& operator=(const RatPlan&) = delete;

  const RatTile* tiles;
  const RatSequence* sequences;
  const RatGroup* groups;
  const RatStream* streams;    // the parts of a tile stand in order
  const int32_t* start_state;  // [chunks] states row of the running state a chunk starts from, -1: zeros
  const int32_t* piece_state;  // [chunks] states row of the chunk's second piece; the next ones follow
  const int32_t* padding;      // token rows in no chunk
  int64_t tile_count, sequence_count, group_count, stream_count, padding_count, state_count;
  bool only_streams;       // all tiles have one token
  bool has_pieces;         // some chunk is longer than a tile
  bool sequences_overlap;  // some end row is seen or written by two sequences

 private:
  struct Data;
  Data* data_;
};

}  // namespace rattan::kernels
