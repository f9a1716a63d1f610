// The chunk table of RAT for a batch layout (kernels/rat.h).
#pragma once
#include "rattan/nn/layout.h"

namespace rattan::nn {

struct RatChunks {
  at::Tensor table;            // int32 [chunks, 7]: kernels::RatChunk
  int64_t rows = 1, ends = 1;  // size of the ends buffer: [rows, ends]
  int64_t positions = 1;       // 1 + largest chunk index
  bool step = false;           // each sequence gets one token, and nothing is padding
};

// For a state with `ends_per_row` entries a row: the ends of state row r are [r * ends_per_row, ...) and a
// segment continues the row it writes. With ends_per_row = 0 the ends are scratch, one row a chunk, and nothing
// is carried. Chunks restart with every segment, at the phase of its first position.
// InputError when a segment does not fit its state row or reads another row than it writes.
RatChunks rat_chunks(const Layout& layout, int64_t chunk, int64_t ends_per_row);

// The chunks of a batch over the ends it touches alone, for a state whose ends cannot be read in place: old ones are
// put to rows of a scratch buffer, and new ones taken from it to the state. Row numbers are int64, of the flat state
// and of the buffer.
struct RatSeenEnds {
  RatChunks chunks;                   // ends and rows: those of the buffer, state rows as they are
  at::Tensor old_state, old_scratch;  // ends that the batch sees and did not write
  at::Tensor new_scratch, new_state;  // those that it writes
};
RatSeenEnds rat_seen_ends(const Layout& layout, int64_t chunk, int64_t rows, int64_t ends_per_row);

// Entries a state row needs to hold all positions of the layout.
int64_t rat_ends(const Layout& layout, int64_t chunk);

}  // namespace rattan::nn
