// The nodes of the prefix cache's tree.
#pragma once
#include <map>
#include <memory>
#include <vector>

#include "rattan/infer/engine/prefix_cache.h"
#include "rattan/infer/engine/prefix_hash.h"

namespace rattan::infer {

// A state at a place where it cannot be made from the entries of token ranges alone.
struct PrefixCache::Snapshot {
  Node* node = nullptr;           // ends at the last multiple of the grain that is not behind `tokens`
  int64_t tokens = 0;             // that the state has read
  std::vector<int32_t> tail;      // those behind the node
  std::vector<at::Tensor> parts;  // by group: entries of the tail, of a ring, or the whole; undefined: not needed
  int64_t bytes = 0;
  uint64_t tick = 0;
};

struct PrefixCache::Node {
  using Key = std::vector<int32_t>;  // the first `grain` tokens

  int64_t end() const { return begin + static_cast<int64_t>(tokens.size()); }

  Node* parent = nullptr;
  int64_t begin = 0;              // tokens before
  std::vector<int32_t> tokens;    // a multiple of the grain
  std::vector<at::Tensor> parts;  // by group: the range's entries [members, n, ...]; undefined: does not grow
  std::map<Key, std::unique_ptr<Node>> children;
  std::vector<std::unique_ptr<Snapshot>> snapshots;
  uint64_t hash = prefix_hash_start;  // of the tokens before
  int64_t bytes = 0;
  uint64_t tick = 0;  // 0: the root
};

}  // namespace rattan::infer
