// Prefixes whose states are kept, so that a prompt that begins like an earlier text is not read again.
//
// A radix tree over token ids. An edge holds a range of tokens and, for every field of the state that has an entry per
// n tokens, the entries of that range: branches share what they have in common. Edges are cut at multiples of the
// grain (the least common multiple of all such n), so no entry belongs to two edges.
// Where every part of the state resumes at multiples of something, that is all. Other states (recurrences, rings) are
// contained in no longer one's, so snapshots of their fields are kept: every `snapshot_every` tokens and where a text
// ended when it was put in. Everything follows from the StateSpec (docs/prefix-cache.md).
// What was used least recently gives way.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <unordered_set>
#include <vector>

#include "rattan/infer/engine/memory.h"
#include "rattan/infer/engine/state_store.h"

namespace rattan::infer {

struct CacheConfig {
  bool enabled = true;
  int64_t snapshot_every = 1024;
};

class PrefixCache {
 public:
  PrefixCache(StateStore& store, const nn::StateSpec& spec, Memory& memory, const CacheConfig& config);
  ~PrefixCache();

  using Ids = std::span<const int32_t>;
  // Fills a row with the longest known state of a beginning of `ids` and says how many tokens it holds. Counts a hit or
  // a miss with its reason.
  int64_t restore(Ids ids, int64_t row);
  void touch(Ids ids);  // what restore would use is the last to give way
  // Keeps the state that a row holds after exactly these tokens. What there is no room for is left out.
  void insert(Ids ids, int64_t row);

  // The parts of a state from elsewhere: entries [from, to) of a group, as StateStore::Group::part.
  using Parts = std::function<at::Tensor(std::size_t group, int64_t from, int64_t to)>;
  // The same with a snapshot at the end, whatever the spec. False if there was no room for all of it.
  bool insert(Ids ids, const Parts& parts, bool snapshot);

  bool evict_one();  // false if nothing is left

  // Where reading must stop for a snapshot: the largest m <= n for which no multiple is passed.
  int64_t stop_before(int64_t read, int64_t n) const;
  bool on_ladder(int64_t read) const { return needs_snapshots_ && read > 0 && read % config_.snapshot_every == 0; }
  bool needs_snapshots() const { return needs_snapshots_; }

  uint64_t hits() const { return hits_; }
  uint64_t evictions() const { return evictions_; }
  const std::map<std::string, uint64_t>& misses() const { return misses_; }

 private:
  struct Node;
  struct Snapshot;
  struct Found {
    std::vector<Node*> path;       // from the root's child on; the last one may be used in part
    int64_t matched = 0;           // tokens known
    int64_t usable = 0;            // tokens of the state to resume
    Snapshot* snapshot = nullptr;  // where it comes from one
    bool evicted = false;          // more was known once
  };

  Found find(Ids ids) const;
  // What is found becomes the last to give way: nodes that begin before `upto` tokens, and the snapshot.
  void refresh(const Found& found, int64_t upto);
  void copy_out(const Found& found, int64_t row) const;
  const char* reason(const Found& found, Ids ids) const;

  // Makes the path of the first n tokens (a multiple of the grain): the node that holds the last of them, and ends
  // there where that is asked for. nullptr: no room.
  Node* extend_path(Ids ids, int64_t n, const Parts& parts, bool ends_there);
  Node* add_child(Node& parent, Ids rest, const Parts& parts);
  Node* split(Node& node, int64_t tokens);
  bool add_snapshot(Node& node, Ids ids, const Parts& parts);
  bool room(int64_t bytes);
  bool resumes(std::size_t group, int64_t tokens) const;

  StateStore& store_;
  Memory& memory_;
  CacheConfig config_;
  bool needs_snapshots_ = false;
  int64_t grain_ = 1, resume_ = 1;  // resume_: of the parts that resume at all
  std::unique_ptr<Node> root_;
  std::map<uint64_t, std::pair<Node*, Snapshot*>> by_use_;  // unique ticks; a snapshot, or the node alone
  uint64_t tick_ = 0, protect_ = 0;                         // nothing used at or after `protect_` is evicted
  std::unordered_set<uint64_t> evicted_;                    // hashes of beginnings
  uint64_t hits_ = 0, evictions_ = 0;
  std::map<std::string, uint64_t> misses_;
};

}  // namespace rattan::infer
